"""The key that proves who an institution is: an EC key on P-384, as Flower's SuperNode reads and registers it."""

import base64
import codecs
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from shared.errors import ConfigError, EnrolmentError
from shared.nodekeys import fingerprint as agreed_fingerprint
from shared.nodekeys import line_of
from shared.process.files import check_private, write_new

if TYPE_CHECKING:
    from shared.federation import Federation


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
    public = public_half(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_new(path, private, 0o600)
        try:
            write_new(public_path, public + b"\n", 0o644)
        except OSError:
            path.unlink()
            raise
    except OSError as error:
        raise EnrolmentError(
            f"Expected to write a key to {path}, but {error.filename} cannot be written ({error.strerror}); "
            "choose a folder that you may write to."
        ) from None


def next_key(path: Path) -> Path:
    """Where the private key lies that is about to take the place of the one at `path`."""
    return path.with_name(f"{path.name}.next")


def public_half(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The line of a .pub file, without its end."""
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Of a public key, as `ssh-keygen -l` and the coordinator print it."""
    line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def read_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """A node's public key (`node.pub`), or the public half of its private one.

    Raises:
        EnrolmentError: The file is neither.
    """
    try:
        content = path.read_bytes()
        if b"PRIVATE KEY" in content:
            return read_private_key(path).public_key()
        key = serialization.load_ssh_public_key(content.removeprefix(codecs.BOM_UTF8))
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise EnrolmentError(f"Expected a node key in {path}, but it cannot be read ({error}).") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise EnrolmentError(f"Expected an elliptic-curve key in {path}, but it is of another kind.")
    return key


def read_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A node's private key (`node.key`).

    Raises:
        EnrolmentError: The file cannot be read, or is no unencrypted elliptic-curve key in OpenSSH format.
        ConfigError: Others may read it.
    """
    try:
        private = serialization.load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = f"it cannot be read ({error.strerror})" if isinstance(error, OSError) else "its content is something else"
        raise EnrolmentError(
            f"Expected this institution's private key in {path}, but {why}; "
            "make one with `collegium client keygen`, or correct identity.key in the institution file."
        ) from None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise EnrolmentError(
            f"Expected an elliptic-curve key in {path}, but it is of another kind; "
            "make one with `collegium client keygen`."
        )
    check_private(path)
    return private


def check_agreed_key(key: ec.EllipticCurvePublicKey, name: str, federation: "Federation") -> None:
    """Raise ConfigError unless the agreement, if it names keys, names an institution's own key under its name."""
    agreed = federation.secure_aggregation
    if agreed is not None and agreed.keys[name] != line_of(key):
        raise ConfigError(
            f"Expected the federation file to name this site's own key {fingerprint(key)} under {name} in "
            f"[secure_aggregation.keys], but it names {agreed_fingerprint(agreed.keys[name])}; do not take part before "
            "the coordinator has put the key of your .pub file there, or correct identity.key."
        )
