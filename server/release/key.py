"""The key that signs a coordinator's releases: made with the folder, or when it is first needed in an older one."""

from contextlib import suppress

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.home import ServerHome
from shared.bundle.keys import load_release_key, new_release_key, release_line
from shared.errors import StoreError
from shared.process.files import write_new


def signing_key(home: ServerHome) -> Ed25519PrivateKey:
    """The private key; its public half, for readers of bundles, is then in `public/release.pub`.

    Raises:
        ConfigError: It cannot be read, or others may read it.
        StoreError: A new one cannot be written.
    """
    try:
        with suppress(FileExistsError):
            write_new(home.release_key, new_release_key(), 0o600)
        key = load_release_key(home.release_key)
        with suppress(FileExistsError):
            write_new(home.release_public_key, f"{release_line(key.public_key())}\n".encode(), 0o644)
    except OSError as error:
        raise StoreError(f"Could not write {error.filename or home.release_key} ({error.strerror}).") from None
    return key
