"""How an institution signs its requests to the coordinator: method, path, body, time and a nonce, in one header.

Flower's own header signs the time alone: whoever has seen one can send any body to any path with it for five minutes.
"""

import hashlib
import re
import secrets
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

HEADER = "collegium-signature"
"""`1 TIME NONCE SHA256 SIGNATURE`: UTC in ISO 8601, 32 hexadecimal digits, 64 of them, and DER in base64."""

TOLERATED_SECONDS = 2.0
"""Between two clocks: a coordinator takes no signature that is 5 s ahead of its own."""

_CONTEXT = "collegium request 1"
_PATTERN = re.compile(
    r"1 (?P<time>[0-9T:.+-]{19,40}) (?P<nonce>[0-9a-f]{32}) (?P<digest>[0-9a-f]{64}) "
    r"(?P<signature>[A-Za-z0-9+/=]{8,200})"
)
_ALGORITHM = ec.ECDSA(hashes.SHA256())


@dataclass(frozen=True)
class RequestSignature:
    """What the header says; `verify` checks whether the key has signed it."""

    time: datetime
    """When it was signed, with a time zone."""
    nonce: str
    digest: str
    """SHA-256 of the body, hexadecimal."""
    signature: bytes
    text: str
    """The time as it was written, which is what was signed."""

    def verify(self, key: ec.EllipticCurvePublicKey, method: str, path: str) -> bool:
        """Whether the key signed this for this method and path."""
        try:
            key.verify(self.signature, _signed(method, path, self.text, self.nonce, self.digest), _ALGORITHM)
        except InvalidSignature:
            return False
        return True


def sign_request(key: ec.EllipticCurvePrivateKey, method: str, path: str, body: bytes, ahead: float = 0.0) -> str:
    """The header's value for a request that is about to be sent, `ahead` seconds from now by this machine's clock."""
    time, nonce = (datetime.now(UTC) + timedelta(seconds=ahead)).isoformat(), secrets.token_hex(16)
    digest = hashlib.sha256(body).hexdigest()
    signature = key.sign(_signed(method, path, time, nonce, digest), _ALGORITHM)
    return f"1 {time} {nonce} {digest} {b64encode(signature).decode('ascii')}"


def seconds_ahead(date: str | None) -> float:
    """By how much the coordinator's clock is ahead of this machine's, from the header `Date` of its answer.

    0 if it says nothing, or both tell about the same time. One of the two may be wrong: what is signed is for the
    coordinator alone, so its own time counts.
    """
    try:
        told = parsedate_to_datetime(date or "").timestamp() + 0.5  # its seconds are cut
    except (TypeError, ValueError):
        return 0.0
    ahead = told - datetime.now(UTC).timestamp()
    return ahead if abs(ahead) > TOLERATED_SECONDS else 0.0


def read_signature(header: str) -> RequestSignature:
    """Read the header's value.

    Raises:
        ValueError: It has another form.
    """
    found = _PATTERN.fullmatch(header)
    if found is None:
        raise ValueError("no signature of a request")
    time = datetime.fromisoformat(found["time"])
    if time.tzinfo is None:
        raise ValueError("a time without its zone")
    signature = b64decode(found["signature"], validate=True)
    return RequestSignature(time, found["nonce"], found["digest"], signature, found["time"])


def _signed(method: str, path: str, time: str, nonce: str, digest: str) -> bytes:
    return "\n".join((_CONTEXT, method, path, time, nonce, digest)).encode("utf-8")
