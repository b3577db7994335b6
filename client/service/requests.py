"""What this site's requests to the coordinator have beside Flower's own: a signature of the whole, and patience."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec

from client.service.endings import UNTRUSTED
from shared.federation.offers import HEADER as AGREEMENT_HEADER
from shared.flower.http import ProtobufCall, ProtobufClientInterceptor, ProtobufRequestContext
from shared.flower.supernode import ActivateNodeResponse, DeactivateNodeRequest, NodeAuthHttpInterceptor
from shared.process.files import write_synced
from shared.process.waiting import HEADER as WAIT_HEADER
from shared.process.waiting import LEAVES_HEADER, LONGEST_SECONDS
from shared.signing import HEADER, TOLERATED_SECONDS, seconds_ahead, sign_request

PULL_PATH, PUSH_PATH = "/v1/fleet/pull-messages", "/v1/fleet/push-messages"
CONFIRM_PATH = "/v1/fleet/confirm-message-received"
ACTIVATE_PATH, DEACTIVATE_PATH = "/v1/fleet/activate-node", "/v1/fleet/deactivate-node"
HEARTBEAT_PATH = "/v1/fleet/send-node-heartbeat"
OF_ONE_REQUEST = ("content-length", HEADER.lower(), "flwr-public-key", "flwr-signature", "flwr-timestamp")
"""Headers that another request has its own of."""
RELEARN_SECONDS = 600.0
LONGEST_PAUSE = 60.0
CUT_BY_A_PROXY = frozenset({httpx.codes.REQUEST_TIMEOUT, httpx.codes.BAD_GATEWAY, httpx.codes.GATEWAY_TIMEOUT})
CONNECT_SECONDS = 10.0
"""For a new connection; Flower: 30."""


class Patience:
    """How long the coordinator may hold this process's question: what lies between them may end it sooner.

    Such a cut halves the time, and for as long as RELEARN_SECONDS it stays so.

    Args:
        now: Seconds; a test may pass its own.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._seconds, self._cut_at = LONGEST_SECONDS, -RELEARN_SECONDS
        self.held = False
        """Whether the coordinator holds questions at all, as it said with its last answer."""

    @property
    def seconds(self) -> float:
        """For the next question."""
        if self._now() - self._cut_at >= RELEARN_SECONDS:
            self._seconds = LONGEST_SECONDS
        return self._seconds

    def cut(self, seconds: float) -> None:
        """Note that a question ended without an answer, so many seconds after it was asked."""
        if seconds > 1.0:  # else nobody has held it
            self._seconds, self._cut_at = max(1.0, min(self._seconds, seconds) / 2), self._now()


class WholeRequestSigner:
    """Flower's signature of the time, and ours of the whole request.

    It also lets the coordinator hold the question for a message, and asks again later what came too fast.

    Args:
        private_key: The node's, on P-384.
        public_key: Its other half.
        patience: How long a question may be held.
        received: Called when a message is here with all its arrays.
        offered: Told the digest of the agreement that the coordinator offers, with every answer to a question.
        sleep: Replaced in tests.
        last: The number under which the coordinator knows this site, from the last time.
        leaves: Whether the reply at hand is the last one, which the coordinator is told with it.
    """

    def __init__(
        self,
        private_key: ec.EllipticCurvePrivateKey,
        public_key: ec.EllipticCurvePublicKey,
        patience: Patience,
        received: Callable[[], None] = lambda: None,
        offered: Callable[[str | None], None] = lambda digest: None,
        sleep: Callable[[float], None] = time.sleep,
        last: "LastNode | None" = None,
        leaves: Callable[[], bool] = lambda: False,
    ) -> None:
        self._key, self._flower = private_key, NodeAuthHttpInterceptor(private_key, public_key)
        self._patience, self._received, self._offered, self._sleep = patience, received, offered, sleep
        self._last, self._leaves = last, leaves
        self._ahead = 0.0
        """Seconds by which the coordinator's clock is."""
        self._answered = False

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Sign a request and pass it on.

        A network that is cut in the middle of a TLS handshake shows as an error of TLS, for which Flower gives up, and
        with it the message at hand. Who has answered before speaks TLS: such an error is as any other of the network.
        """
        try:
            response = self._ask(context, call_next)
        except httpx.TransportError as error:
            if self._answered and "ssl" in str(error).lower() and UNTRUSTED not in str(error):
                raise httpx.ConnectError("The connection was cut.") from error
            raise
        self._answered = True
        return response

    def _ask(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        bare = context.request.headers.copy()
        response = self._send(context, call_next)
        if context.request.url.path == ACTIVATE_PATH and self._last:
            if response.is_client_error and (number := self._last.read()) is not None:
                self._take_leave(number, context, call_next)
                context.request.headers = bare
                response = self._send(context, call_next)
            if response.is_success:
                self._last.write(ActivateNodeResponse.FromString(response.content).node_id)
        return response

    def _take_leave(self, number: int, context: ProtobufRequestContext, call_next: ProtobufCall) -> None:
        """Tell the coordinator that the last process, which it still counts as online, has gone."""
        mine = context.request
        request = httpx.Request(
            "POST",
            mine.url.copy_with(path=DEACTIVATE_PATH),
            headers={name: value for name, value in mine.headers.items() if name.lower() not in OF_ONE_REQUEST},
            content=DeactivateNodeRequest(node_id=number).SerializeToString(),
        )
        self._send(ProtobufRequestContext(rpc_method="", message=None, request=request), call_next)

    def _send(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        request = context.request
        path = request.url.path
        if path == CONFIRM_PATH:
            self._received()
        if path == PUSH_PATH and self._leaves():
            request.headers[LEAVES_HEADER] = "1"
        if "timeout" in request.extensions:
            limits = request.extensions["timeout"]
            limits["connect"] = min(limits["connect"] or CONNECT_SECONDS, CONNECT_SECONDS)
        bare, corrected = request.headers.copy(), False
        while True:
            request.headers = bare.copy()  # Flower's signature is made once for a request
            request.headers[HEADER] = sign_request(self._key, request.method, path, request.content, self._ahead)
            response = (self._question if path == PULL_PATH else self._flower.intercept)(context, call_next)
            if response.status_code == httpx.codes.UNAUTHORIZED and not corrected and self._has_other_time(response):
                corrected = True
            elif response.status_code == httpx.codes.TOO_MANY_REQUESTS and path != PULL_PATH:
                self._sleep(_retry_after(response))
            else:
                if path == HEARTBEAT_PATH and response.is_server_error:
                    response.status_code = httpx.codes.SERVICE_UNAVAILABLE
                if path == CONFIRM_PATH and response.status_code == httpx.codes.FORBIDDEN:
                    response.status_code = httpx.codes.GONE  # else Flower forgets that the message is a task already
                return response

    def _has_other_time(self, response: httpx.Response) -> bool:
        """Whether the coordinator's clock shows another time than was signed with; the next signature has it."""
        ahead = seconds_ahead(response.headers.get("date"))
        other, self._ahead = abs(ahead - self._ahead) > TOLERATED_SECONDS, ahead
        return other

    def _question(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        asked, began = self._patience.seconds, time.monotonic()
        context.request.headers[WAIT_HEADER] = f"{asked:g}"
        try:
            response = self._flower.intercept(context, call_next)
        except httpx.TransportError:
            self._patience.cut(time.monotonic() - began)
            raise
        self._patience.held = WAIT_HEADER in response.headers
        self._offered(response.headers.get(AGREEMENT_HEADER))
        if response.status_code in CUT_BY_A_PROXY:
            self._patience.cut(time.monotonic() - began)
        return response


class InTurn:
    """One interceptor before another, where Flower has a place for one."""

    def __init__(self, outer: ProtobufClientInterceptor, inner: ProtobufClientInterceptor) -> None:
        self._outer, self._inner = outer, inner

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Let a request pass through both."""
        return self._outer.intercept(context, lambda passed: self._inner.intercept(passed, call_next))


def _retry_after(response: httpx.Response) -> float:
    try:
        return min(max(float(response.headers.get("retry-after", "1")), 1.0), LONGEST_PAUSE)
    except ValueError:
        return 1.0


class LastNode:
    """The number under which the coordinator knew this site last, in a file.

    It counts only on the machine, since it was started, and in the folder where it was written: a copy of the folder
    may run elsewhere.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._here = [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(), str(file.resolve())]

    def read(self) -> int | None:
        """The number; None if there is none that counts."""
        try:
            number, *where = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            return None
        return number if where == self._here and isinstance(number, int) else None

    def write(self, number: int) -> None:
        """Remember a number; where that fails, a SuperNode that is killed is away for a minute."""
        with suppress(OSError):
            write_synced(self._file, json.dumps([number, *self._here]).encode())
