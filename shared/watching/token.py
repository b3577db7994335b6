"""The token of whoever may read metrics: a line in a file that its owner alone may open."""

import hmac
import secrets
from contextlib import suppress
from pathlib import Path

from shared.errors import ConfigError
from shared.process.files import check_private, write_new


def token_of(path: Path) -> str:
    """The token in a file, which is made if it is not there.

    Raises:
        ConfigError: It cannot be read or made, is empty, or others may read it.
    """
    try:
        with suppress(FileExistsError):
            write_new(path, f"{secrets.token_urlsafe(32)}\n".encode("ascii"), 0o600)
        check_private(path)
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Expected the token for metrics in {path}, but it cannot be read ({error}).") from None
    if not token:
        raise ConfigError(f"Expected the token for metrics in {path}, but it is empty; remove the file for a new one.")
    return token


def shows(authorization: str, token: str) -> bool:
    """Whether a header is `Bearer TOKEN`; compared in constant time."""
    return hmac.compare_digest(authorization.encode("latin-1", "replace"), f"Bearer {token}".encode("latin-1"))
