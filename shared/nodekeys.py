"""Node keys: what an institution is known by, and what it signs with (ECDSA on P-384 with SHA-384, FIPS 186-5)."""

import base64
import binascii
import hashlib
from typing import Annotated

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import AfterValidator

ALGORITHM = ec.ECDSA(hashes.SHA384())
LONGEST_LINE = 1024
"""Characters of a public key; one without a comment has 204."""


def read_line(line: str) -> ec.EllipticCurvePublicKey:
    """The public key on a line of OpenSSH's, `ecdsa-sha2-nistp384 AAAA...`; ValueError if it is none."""
    expected = "expected a public key on one line, 'ecdsa-sha2-nistp384 AAAA...', as in the .pub file of a node key"
    if len(line) > LONGEST_LINE or len(line.splitlines()) != 1:
        raise ValueError(expected)
    try:
        key = serialization.load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(expected) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ValueError(f"{expected}; this key is of another kind")
    return key


def line_of(key: ec.EllipticCurvePublicKey) -> str:
    """The one line that a public key has here: without a comment."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


NodeKey = Annotated[str, AfterValidator(lambda line: line_of(read_line(line)))]
"""A public key as `line_of` writes it, so that one key is one text."""


def fingerprint(line: str) -> str:
    """Of a public key, as `ssh-keygen -l` prints it."""
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def x_of(key: ec.EllipticCurvePublicKey) -> int:
    """The x-coordinate: all that a key exchange uses, and the same for a point and its negation."""
    return key.public_numbers().x


def sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> str:
    """A signature as hexadecimal text."""
    return key.sign(message, ALGORITHM).hex()


def is_signed(line: str, message: bytes, signature: str) -> bool:
    """Whether the owner of a public key has signed the message."""
    try:
        read_line(line).verify(binascii.unhexlify(signature), message, ALGORITHM)
    except (InvalidSignature, ValueError):
        return False
    return True
