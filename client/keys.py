"""The key that proves who an institution is: an EC key on P-384, as Flower's SuperNode reads and registers it."""

import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from shared.errors import EnrolmentError


def generate_node_key(path: Path) -> None:
    """Write a new private key to `path` and its public half beside it, with the suffix `.pub`.

    Both are in OpenSSH format. The private key is not encrypted, since the daemon starts unattended; only its owner
    may read it (mode 0600).

    Args:
        path: Where the private key goes; folders are made as needed.

    Raises:
        EnrolmentError: One of the two files exists already, or cannot be written; nothing is overwritten.
    """
    public_path = path.with_suffix(".pub")
    if public_path == path:
        raise EnrolmentError(
            f"Expected a name for the private key, but {path} ends in .pub, which is kept for the public key; "
            f"choose another name, for example {path.with_suffix('.key')}."
        )
    for taken in (path, public_path):
        if taken.exists() or taken.is_symlink():
            raise EnrolmentError(
                f"Expected no file at {taken}, but there is one, and a key that may be enrolled is never overwritten; "
                "choose another path, or move the old key away and have the coordinator enrol the new one."
            )
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_new(path, private, 0o600)
        _write_new(public_path, public + b"\n", 0o644)
    except OSError as error:
        raise EnrolmentError(
            f"Expected to write a key to {path}, but {error.filename} cannot be written ({error.strerror}); "
            "choose a folder that you may write to."
        ) from None


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Create `path` with `mode` from the first moment on; it must not exist."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
