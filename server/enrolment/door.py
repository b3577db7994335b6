"""The enrolment door: `python -m server.enrolment.door --home DIR`, a gRPC service over TLS on a port of its own.

Strangers may come here, so it is a process of its own, with small messages, few threads, a deadline for each request,
a time for each connection, and limits on tries per address and over all (`tries.py`). What it says of a refusal is one
sentence that says nothing of anybody else.
"""

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from server.door.refusals import FewLines
from server.enrolment.health import HealthService
from server.enrolment.reception import Reception
from server.enrolment.tries import Tries
from server.home import ServerHome, ServerSettings, bracketed, open_home, read_settings
from shared.config import Model
from shared.enrolment.messages import ANSWER_BYTES, REQUEST_BYTES, SERVICE, Greet, Join, Leave, Rotate, pack, unpack
from shared.errors import (
    LONGEST_LINE,
    CollegiumError,
    ConfigError,
    ConnectionFailedError,
    EnrolmentError,
    ProtocolError,
    plain,
)
from shared.process.files import private_umask
from shared.process.machine import machine_errors
from shared.process.parent import tell_parent

THREADS = 4
MOST_REQUESTS = 32
"""That are answered or wait for a thread; more are turned away."""
MOST_CONNECTIONS = 128
HANDSHAKE_MS, IDLE_MS, LIFE_MS = 5_000, 10_000, 60_000
"""Of a connection: until TLS is done, without a request, in all."""
STOP_SECONDS = 2.0
NOT_NOW = "Expected the coordinator to be up, but it does not answer at the moment; try again."

OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", REQUEST_BYTES),
    ("grpc.max_send_message_length", ANSWER_BYTES),
    ("grpc.max_metadata_size", 4096),
    ("grpc.max_concurrent_streams", 4),
    ("grpc.max_allowed_incoming_connections", MOST_CONNECTIONS),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    ("grpc.max_connection_idle_ms", IDLE_MS),
    ("grpc.max_connection_age_ms", LIFE_MS),
    ("grpc.max_connection_age_grace_ms", IDLE_MS),
    ("grpc.so_reuseport", 0),
]

log = logging.getLogger("server.enrolment")


class Door:
    """Answers the service's requests.

    Args:
        reception: What they come to.
        tries: How many there may be.
    """

    def __init__(self, reception: Reception, tries: Tries) -> None:
        self._tries = tries
        self._methods: dict[str, tuple[type[Model], Callable[[Any], Model]]] = {
            "Greet": (Greet, reception.greet),
            "Join": (Join, reception.join),
            "Rotate": (Rotate, reception.rotate),
            "Leave": (Leave, reception.leave),
        }

    @property
    def handler(self) -> grpc.GenericRpcHandler:
        """What a gRPC server is given."""
        methods = {name: grpc.unary_unary_rpc_method_handler(self._answering(name)) for name in self._methods}
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _answering(self, name: str) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        kind, method = self._methods[name]

        def answer(content: bytes, context: grpc.ServicerContext) -> bytes:
            if (wait := self._tries.wait(context.peer())) > 0:
                log.warning("%s %s: too many tries", context.peer(), name)
                context.set_trailing_metadata((("retry-after", f"{wait:.0f}"),))
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"Too many tries; try again in {wait:.0f} s.")
            try:
                done = pack(method(unpack(kind, content)))
            except (EnrolmentError, ProtocolError) as error:
                log.warning("%s %s: %s", context.peer(), name, plain(str(error)))
                context.abort(grpc.StatusCode.PERMISSION_DENIED, plain(str(error), LONGEST_LINE))
            except (CollegiumError, OSError) as error:  # the SuperLink is being started again, or the disk is full
                log.error("%s %s: %s", context.peer(), name, plain(str(error)))
                context.abort(grpc.StatusCode.UNAVAILABLE, NOT_NOW)
            log.info("%s %s", context.peer(), name)
            return done

        return answer


def open_door(home: ServerHome, settings: ServerSettings, tries: Tries | None = None) -> tuple[grpc.Server, int]:
    """A door that is about to be started, and its port.

    Args:
        home: The coordinator's folder.
        settings: Its settings.
        tries: How many there may be, if not as many as usual.

    Raises:
        ConfigError: The settings name no port for it, or its certificate cannot be used.
        ConnectionFailedError: The port is taken.
    """
    if settings.enrolment_port is None:
        raise ConfigError(f"Expected enrolment_port in {home.settings_file}, but there is none.")
    server = grpc.server(
        ThreadPoolExecutor(THREADS, thread_name_prefix="enrolment"),
        options=OPTIONS,
        maximum_concurrent_rpcs=MOST_REQUESTS,
    )
    counted = tries or Tries()
    server.add_generic_rpc_handlers((Door(Reception(home), counted).handler,))
    add_HealthServicer_to_server(HealthService(home, settings, counted), server)
    address = f"{bracketed(settings.public_host)}:{settings.enrolment_port}"
    try:
        return server, server.add_secure_port(address, _credentials(home))
    except RuntimeError:
        raise ConnectionFailedError(
            f"Expected to listen on {address}, but that is not possible; stop the program that uses the port or change "
            "enrolment_port in server.toml."
        ) from None


def _credentials(home: ServerHome) -> grpc.ServerCredentials:
    """The server certificate, read anew for a handshake after it was renewed."""
    read = 0

    def configuration() -> grpc.ServerCertificateConfiguration | None:
        nonlocal read
        changed = home.server_certificate.stat().st_mtime_ns
        if changed == read:
            return None
        read = changed
        pair = (home.server_key.read_bytes(), home.server_certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair])

    return grpc.dynamic_ssl_server_credentials(configuration(), configuration, False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the child process; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m server.enrolment.door", description="The enrolment door")
    parser.add_argument("--home", type=Path, required=True, metavar="DIR", help="the coordinator's folder")
    root: Path = parser.parse_args(arguments).home
    private_umask()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(FewLines())
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        with machine_errors():
            home = open_home(root)
            server, port = open_door(home, read_settings(home))
    except CollegiumError as error:
        print(f"error: {plain(str(error), LONGEST_LINE)}", file=sys.stderr, flush=True)
        tell_parent(error)
        return 1
    server.start()
    log.info("the enrolment door is open at port %d", port)
    stop.wait()
    server.stop(STOP_SECONDS).wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
