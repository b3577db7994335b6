"""A coordinator's public door as one request shows it: whether it answers, its certificates, its clock."""

import socket
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
from cryptography import x509

from shared.doctor.findings import Finding
from shared.enrolment.certificates import WARNING_DAYS, days_left
from shared.errors import ConfigError
from shared.flower.constants import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE
from shared.process.proxies import proxy_towards

SECONDS = 10.0
"""Longest wait for the door."""
SMALL_OFFSET = 60.0
"""Seconds by which a clock may be slow before it is spoken of."""


@dataclass(frozen=True)
class Door:
    """What one request to `/health` has shown."""

    address: str
    unreachable: str = ""
    """Why no TLS connection came about, for another reason than its certificate."""
    untrusted: str = ""
    """Why its certificate is not trusted."""
    days: int | None = None
    """Until the shown certificate ends."""
    ahead: float | None = None
    """Seconds by which this machine's clock is ahead of the coordinator's, to about a second."""
    status: int | None = None
    """HTTP status of the answer."""


def look_at_door(address: str, ca: Path) -> Door:
    """Ask a door for its health, through the environment's proxy if there is one towards it.

    Args:
        address: `host:port`.
        ca: The CA certificate that is trusted, and no other.
    """
    try:
        trusted = ssl.create_default_context(cafile=str(ca))
    except OSError as error:  # SSLError is one
        return Door(address, unreachable=f"{ca} cannot be used: {error.strerror or error.args[-1]}")
    try:
        proxied = proxy_towards(address) is not None
        with (
            httpx.Client(verify=trusted, timeout=SECONDS, trust_env=proxied) as client,
            client.stream("GET", f"https://{address}/health") as answer,
        ):
            shown = answer.extensions["network_stream"].get_extra_info("ssl_object").getpeercert(True)
            return Door(
                address,
                days=days_left(x509.load_der_x509_certificate(shown)),
                ahead=_ahead(answer.headers.get("date")),
                status=answer.status_code,
            )
    except ConfigError as error:
        return Door(address, unreachable=str(error))
    except httpx.HTTPError as error:
        refused = _certificate_error(error)
        if refused is not None:
            return Door(address, untrusted=refused.verify_message)
        return Door(address, unreachable=str(error) or type(error).__name__)


def check_name(address: str) -> Finding:
    """Whether the host's name can be resolved here; behind a proxy that is the proxy's business."""
    host, _, port = address.rpartition(":")
    try:
        if proxy := proxy_towards(address):
            return Finding("name", "ok", f"The proxy {proxy} looks up {host}.")
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except ConfigError as error:
        return Finding("name", "error", str(error))
    except OSError as error:
        return Finding(
            "name",
            "error",
            f"{host} cannot be looked up ({error.strerror}).",
            "Correct server.address, or this machine's DNS; if a proxy is needed, name it in HTTPS_PROXY.",
        )
    addresses = ", ".join(dict.fromkeys(str(entry[4][0]) for entry in found))
    return Finding("name", "ok", f"{host} is {addresses}, without a proxy.")


def check_health(door: Door) -> Finding:
    """Whether the door answers."""
    if door.untrusted:
        return Finding("door", "warning", f"{door.address} answers, but is not trusted.", "See `tls`.")
    if door.unreachable:
        return Finding(
            "door",
            "warning",
            f"{door.address} cannot be reached ({door.unreachable.rstrip('.')}).",
            "Ask whether the coordinator's server is up, and whether the firewalls between let this port through.",
        )
    if door.status == httpx.codes.SERVICE_UNAVAILABLE:
        return Finding(
            "door",
            "warning",
            f"{door.address} answers, and says that no round could run now.",
            "Its operator sees why at the operator door, under /health, and in the logs.",
        )
    if door.status != httpx.codes.OK:
        return Finding(
            "door",
            "warning",
            f"{door.address} answers {door.status} when asked for its health.",
            "Check that server.address is the coordinator's public door.",
        )
    return Finding("door", "ok", f"{door.address} answers.")


def check_tls(door: Door) -> Finding:
    """Whether the certificate is one of the trusted CA, for the address, and how long it is good."""
    if door.untrusted:
        return Finding(
            "tls",
            "error",
            f"The certificate of {door.address} is not trusted: {door.untrusted}.",
            "Check server.address, server.ca and this machine's clock, or get a new ca.crt from the coordinator.",
        )
    if door.days is None:
        return Finding("tls", "warning", "The door's certificate is not known.", "See `door`.")
    if door.days < WARNING_DAYS:
        return Finding(
            "tls",
            "warning",
            f"The door's certificate ends in {door.days} days.",
            "Ask the coordinator to renew it.",
        )
    return Finding("tls", "ok", f"The door's certificate is trusted, and good for {door.days} days.")


def check_clock(door: Door) -> Finding:
    """Whether requests signed by this machine's clock would be in time at the coordinator."""
    if door.ahead is None:
        return Finding("clock", "warning", "The coordinator's clock is not known.", "See `door`.")
    apart = f"This machine's clock is {abs(door.ahead):.0f} s {'ahead of' if door.ahead > 0 else 'behind'} the "
    advice = "Set it right, by NTP for example."
    # The header counts whole seconds, and the answer takes a moment: a second more is none.
    if door.ahead > SYSTEM_TIME_TOLERANCE + 1 or door.ahead < -TIMESTAMP_TOLERANCE:
        return Finding("clock", "error", f"{apart}coordinator's, which refuses what is signed by it.", advice)
    if door.ahead > SYSTEM_TIME_TOLERANCE / 2 + 1 or door.ahead < -SMALL_OFFSET:
        return Finding("clock", "warning", f"{apart}coordinator's.", advice)
    return Finding("clock", "ok", f"{apart}coordinator's.")


def _ahead(date: str | None) -> float | None:
    """By how much this machine's clock is ahead of an answer's header."""
    try:
        return time.time() - parsedate_to_datetime(date or "").timestamp() - 0.5  # the header's seconds are cut
    except ValueError:
        return None


def _certificate_error(error: BaseException) -> ssl.SSLCertVerificationError | None:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None
