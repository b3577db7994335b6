"""An institution's public key as it arrives at the coordinator."""

import base64
import codecs
import hashlib
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from shared.errors import EnrolmentError
from shared.nodekeys import line_of, read_line

MAX_BYTES = 16_384
REMEDY = "ask the institution for the .pub file that `collegium client keygen` wrote"


def read_public_key(path: Path) -> bytes:
    """Read an OpenSSH public key, ECDSA on P-384, as Flower's SuperNodes use.

    Args:
        path: The file that the institution sent; one line, `ecdsa-sha2-nistp384 AAAA...`.

    Returns:
        The key as PEM (SubjectPublicKeyInfo), the form in which Flower registers and compares keys.

    Raises:
        EnrolmentError: The file is absent, is a private key, or holds no such public key.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES)
    except OSError as error:
        raise EnrolmentError(
            f"Expected an institution's public key in {path}, but the file cannot be read ({error.strerror}); "
            f"check the path or {REMEDY}."
        ) from None
    if b"PRIVATE KEY" in content:
        raise EnrolmentError(
            f"Expected a public key in {path}, but it holds a private key, which must never leave the institution; "
            "delete this copy, have the institution make a new pair with `collegium client keygen`, and take the "
            ".pub file only."
        )
    try:
        key = serialization.load_ssh_public_key(content.removeprefix(codecs.BOM_UTF8))
    except (ValueError, UnsupportedAlgorithm):
        raise EnrolmentError(
            f"Expected an OpenSSH public key (ecdsa-sha2-nistp384 ...) in {path}, but its content is something else; "
            f"{REMEDY}."
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise EnrolmentError(f"Expected an ECDSA key on curve P-384 in {path}, but it is {_kind(key)}; {REMEDY}.")
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def agreement_line(public_key: bytes) -> str:
    """A PEM public key as `[secure_aggregation.keys]` of the federation file names it."""
    key = serialization.load_pem_public_key(public_key)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return line_of(key)


def as_pem(line: str) -> bytes:
    """The line of a public key as `read_public_key` returns it."""
    key = read_line(line)
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def fingerprint(public_key: bytes) -> str:
    """Fingerprint of a PEM public key as `ssh-keygen -l` prints it, to be compared over the telephone.

    Args:
        public_key: What `read_public_key` returned.

    Returns:
        `SHA256:` and 43 characters.
    """
    key = serialization.load_pem_public_key(public_key)
    line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")


def _kind(key: object) -> str:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"an ECDSA key on curve {key.curve.name}"
    return f"a {type(key).__name__.removesuffix('PublicKey')} key"
