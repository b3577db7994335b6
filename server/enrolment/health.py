"""The gRPC health protocol at the enrolment door: what the operator door says of rounds, for whoever speaks gRPC.

Services: the empty one and `collegium` are SERVING while rounds could run, `live` while this process answers.
"""

import ssl
import threading
import time
from typing import Any

import grpc
import httpx
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

from server.enrolment.tries import Tries
from server.home import ServerHome, ServerSettings

READY, LIVE = ("", "collegium"), "live"
KNOWN_SECONDS = 2.0
"""How long an answer holds."""
SECONDS = 5.0


class HealthService(HealthServicer):  # type: ignore[misc]
    """Answers `Check`; `Watch`, which would hold a thread for each stranger, is not there.

    Args:
        home: The coordinator's folder.
        settings: Its settings.
        tries: How many requests there may be, of all kinds.
    """

    def __init__(self, home: ServerHome, settings: ServerSettings, tries: Tries) -> None:
        self._tries, self._turn = tries, threading.Lock()
        self._ready, self._until = False, 0.0
        self._operator = httpx.Client(
            base_url=f"https://127.0.0.1:{settings.operator_port}",
            verify=ssl.create_default_context(cafile=str(home.ca_certificate)),
            trust_env=False,
            timeout=SECONDS,
        )

    def Check(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Whether a service is SERVING."""
        if (wait := self._tries.wait(context.peer())) > 0:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"Too many tries; try again in {wait:.0f} s.")
        if request.service not in (*READY, LIVE):
            context.abort(grpc.StatusCode.NOT_FOUND, "No such service.")
        serving = request.service == LIVE or self._rounds_could_run()
        status = HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        return HealthCheckResponse(status=status)

    def _rounds_could_run(self) -> bool:
        with self._turn:
            if time.monotonic() >= self._until:
                try:
                    self._ready = self._operator.get("/health").status_code == httpx.codes.OK
                except httpx.HTTPError:
                    self._ready = False
                self._until = time.monotonic() + KNOWN_SECONDS
            return self._ready
