"""Speaking to the coordinator's enrolment door: over TLS, through a proxy where there is one, with a deadline."""

import http.client
import os
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from shared.config import Model
from shared.enrolment.certificates import WARNING_DAYS, authority_days, days_left, ending, read_certificates
from shared.enrolment.messages import ANSWER_BYTES, SERVICE, pack, unpack
from shared.errors import LONGEST_LINE, ConfigError, ConnectionFailedError, EnrolmentError, plain
from shared.process.proxies import proxy_url

SECONDS = 20.0
"""For an answer."""
PATIENCE_SECONDS = 60.0
"""How long to go on asking where there are too many tries."""

M = TypeVar("M", bound=Model)
Call = Callable[[str, Model, type[M]], M]
"""Called with a method's name, its request, and the kind of the answer."""


def shown_certificate(address: str) -> bytes:
    """The certificate that answers at an address (PEM), whoever's it is: nothing is believed of it yet.

    Raises:
        ConnectionFailedError: Nobody answers there, or without TLS.
    """
    host, _, port = address.rpartition(":")
    unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    unchecked.set_alpn_protocols(["h2", "http/1.1"])
    connection = _connection(host.strip("[]"), int(port), proxy_url(address), unchecked)
    try:
        connection.connect()
        certificate = connection.sock.getpeercert(True)
    except (OSError, http.client.HTTPException) as error:  # ssl.SSLError is an OSError
        raise _unreachable(address, str(error)) from None
    finally:
        connection.close()
    assert certificate is not None  # since TLS has been agreed on
    return ssl.DER_cert_to_PEM_cert(certificate).encode()


def ending_soon(address: str, ca: bytes) -> list[str]:
    """What ends within WARNING_DAYS, of the coordinator's certificates; the one at the address only if it answers."""
    found = [("The coordinator's CA certificate (server.ca)", authority_days(read_certificates(ca)))]
    try:
        shown = read_certificates(shown_certificate(address))[0]
        found.append((f"The certificate of the coordinator at {address}", days_left(shown)))
    except (ConnectionFailedError, ConfigError):
        pass
    return [f"{ending(what, days)}; tell the coordinator." for what, days in found if days < WARNING_DAYS]


@contextmanager
def enrolment_door(address: str, trusted: bytes) -> Iterator[Call[Any]]:
    """While the block lasts, a connection to whoever has a certificate by these authorities.

    Args:
        address: `host:port`.
        trusted: Certificates, PEM.

    Raises:
        ConnectionFailedError: Nobody answers, in time.
        EnrolmentError: What answers has another certificate, or refuses; the message says why.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong is said in one sentence
    import grpc

    proxy = proxy_url(address)
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", ANSWER_BYTES),
        ("grpc.http_proxy", _http_proxy(proxy)) if proxy else ("grpc.enable_http_proxy", 0),
    ]
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(trusted), options=options) as channel:

        def call(method: str, request: Model, kind: type[M]) -> M:
            began = time.monotonic()
            while True:
                try:
                    answer: bytes = channel.unary_unary(f"/{SERVICE}/{method}")(pack(request), timeout=SECONDS)
                    return unpack(kind, answer)
                except grpc.RpcError as error:
                    busy = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                    if not busy or time.monotonic() - began > PATIENCE_SECONDS:
                        raise _explained(address, error.code().name, error.details() or "") from None
                    time.sleep(_retry_after(error.trailing_metadata()))

        yield call


def _explained(address: str, code: str, details: str) -> Exception:
    said = plain(details, LONGEST_LINE)
    if code == "PERMISSION_DENIED":
        return EnrolmentError(said)
    if "CERTIFICATE_VERIFY_FAILED" in details or "Hostname Verification" in details:
        return EnrolmentError(
            f"Expected the coordinator at {address} to prove itself by the authority that this site trusts, but what "
            "answers there shows another certificate; do not go on, and ask the coordinator over the telephone."
        )
    if said.startswith("Expected "):
        return ConnectionFailedError(said)
    return _unreachable(address, said)


def _unreachable(address: str, why: str) -> ConnectionFailedError:
    return ConnectionFailedError(
        f"Expected the coordinator's enrolment door at {address}, but it does not answer as such ({plain(why)}); check "
        "the address, this site's way out (HTTPS_PROXY), and whether the coordinator is up."
    )


def _retry_after(metadata: Any) -> float:
    try:
        return min(max(float(dict(metadata or ()).get("retry-after", "1")), 0.5), 10.0)
    except ValueError:
        return 1.0


def _http_proxy(proxy: str) -> str:
    if urlsplit(proxy).scheme != "http":
        raise ConfigError(
            "Expected a proxy http://HOST:PORT in HTTPS_PROXY for joining, but it is of another kind; set it to such a "
            "proxy for this command, or add the coordinator's host to NO_PROXY."
        )
    return proxy


def _connection(host: str, port: int, proxy: str | None, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    if proxy is None:
        return http.client.HTTPSConnection(host, port, context=context, timeout=SECONDS)
    parts = urlsplit(_http_proxy(proxy))
    connection = http.client.HTTPSConnection(parts.hostname or "", parts.port or 80, context=context, timeout=SECONDS)
    headers = {}
    if parts.username is not None:
        import base64

        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
    connection.set_tunnel(host, port, headers=headers)
    return connection
