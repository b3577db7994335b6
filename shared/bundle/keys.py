"""Release keys: what a coordinator signs its bundles with (Ed25519, RFC 8032), in OpenSSH's formats.

They sign bundles and nothing else, and are no node keys: whoever has one cannot speak to the coordinator.
"""

from pathlib import Path
from typing import Annotated

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import AfterValidator

from shared.errors import ConfigError
from shared.nodekeys import LONGEST_LINE
from shared.process.files import check_private

EXPECTED = "expected a release key on one line, 'ssh-ed25519 AAAA...', as in the coordinator's public/release.pub"


def read_release_line(line: str) -> Ed25519PublicKey:
    """The public key on a line of OpenSSH's; ValueError if it is none."""
    if len(line) > LONGEST_LINE or len(line.splitlines()) != 1:
        raise ValueError(EXPECTED)
    try:
        key = serialization.load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(EXPECTED) from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"{EXPECTED}; this key is of another kind")
    return key


def release_line(key: Ed25519PublicKey) -> str:
    """The one line that a release key has here: without a comment."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


ReleaseKey = Annotated[str, AfterValidator(lambda line: release_line(read_release_line(line)))]
"""A public key as `release_line` writes it, so that one key is one text."""


def read_release_key(path: Path) -> str:
    """The line of the public key in a file, such as release.pub; ConfigError if there is none."""
    try:
        return release_line(read_release_line(path.read_text(encoding="utf-8-sig").strip()))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"Expected the coordinator's public key in {path}, but it cannot be read ({why}).") from None


def new_release_key() -> bytes:
    """A new private key as its file holds it; not encrypted, since releases are made unattended too."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def load_release_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a file; ConfigError if it cannot be read, is of another kind, or others may read it."""
    check_private(path)
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"Expected the key that signs releases in {path}, but it cannot be read ({type(error).__name__}); restore "
            "it from your copy of the folder, or readers of your bundles need a new public key."
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"Expected an Ed25519 key in {path}, but it is of another kind; restore it from your copy.")
    return key


def is_signed_by(line: str, message: bytes, signature: bytes) -> bool:
    """Whether the owner of a release key has signed the message."""
    try:
        read_release_line(line).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
