"""Who may ask what of a server, and how much: a file of tokens that its owner alone may read.

[dashboard]
token = "..."          # at least 32 characters: `python -c "import secrets; print(secrets.token_urlsafe(32))"`
role = "predict"       # or "metrics"; or "admin", who may do all and reload
texts_per_minute = 600 # as many may come at once; without it there is no limit
"""

import hmac
import math
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from shared.errors import ConfigError
from shared.process.files import check_private

Role = Literal["predict", "metrics", "admin"]


class Token(BaseModel):
    """One table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    token: Annotated[str, Field(min_length=32, pattern=r"^[\x21-\x7e]+$")]
    role: Role = "predict"
    texts_per_minute: Annotated[float, Field(gt=0)] | None = None


@dataclass
class Allowance:
    """How many texts somebody may still ask of: a bucket that fills again by the minute."""

    most: float
    left: float
    since: float

    def take(self, texts: int, now: float) -> float:
        """Take them; the seconds until they could be taken, 0 if they were."""
        self.left = min(self.most, self.left + (now - self.since) * self.most / 60)
        self.since = now
        if texts <= self.left:
            self.left -= texts
            return 0.0
        return (texts - self.left) * 60 / self.most


@dataclass(frozen=True)
class Guest:
    """Whoever asks."""

    name: str
    role: Role
    allowance: Allowance | None = None

    def may(self, role: Role) -> bool:
        """Whether that is theirs to ask."""
        return self.role in (role, "admin")


ANYBODY = (Guest("anybody", "predict"), Guest("anybody", "metrics"))


class Doorkeeper:
    """Knows tokens by their hashes.

    Args:
        file: The tokens; None lets in anybody, to all but what is for an admin.
        share: Part of every rate that is this process's, of several.
        clock: Seconds; a test may pass its own.

    Raises:
        ConfigError: The file is wrong, or others may read it.
    """

    def __init__(self, file: Path | None, share: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guests: dict[bytes, Guest] | None = None
        if file is not None:
            self._guests = {}
            for name, token in read_tokens(file).items():
                most = None if token.texts_per_minute is None else token.texts_per_minute * share
                allowance = None if most is None else Allowance(most, most, clock())
                self._guests[_digest(token.token)] = Guest(name, token.role, allowance)

    @property
    def asks(self) -> bool:
        """Whether a token is asked for."""
        return self._guests is not None

    def find(self, authorization: str, role: Role) -> Guest | None:
        """Who shows `Bearer TOKEN`; all tokens are compared, each in constant time. None if the token is none."""
        if self._guests is None:
            return next((guest for guest in ANYBODY if guest.may(role)), ANYBODY[0])
        scheme, _, shown = authorization.partition(" ")
        given, found = _digest(shown.strip()), None
        for digest, guest in self._guests.items():
            if hmac.compare_digest(digest, given):
                found = guest
        return found if scheme.lower() == "bearer" else None

    def take(self, guest: Guest, texts: int) -> int:
        """Count texts; 0, or the seconds to wait because they are too many."""
        return 0 if guest.allowance is None else math.ceil(guest.allowance.take(texts, self._clock()))


def read_tokens(file: Path) -> Mapping[str, Token]:
    """The tokens in a file, by name; ConfigError says all that is wrong with it, and nothing that stands in it."""
    try:
        check_private(file)
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"Expected tokens as TOML in {file}, but it cannot be read ({error}).") from None
    try:
        tokens = TypeAdapter(dict[str, Token]).validate_python(tables)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg'].lower()}" for one in error.errors())
        raise ConfigError(f"Expected tokens in {file}, but {wrong}.") from None
    if not tokens:
        raise ConfigError(f"Expected at least one token in {file}, but it is empty.")
    if len({token.token for token in tokens.values()}) < len(tokens):
        raise ConfigError(f"Expected different tokens in {file}, but two are the same.")
    return tokens


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()
