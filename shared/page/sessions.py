"""Who is signed in to a page: by a token, once, and from then on by a cookie that says nothing of it."""

import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

Role = Literal["operator", "viewer"]
"""An operator may act, a viewer may look."""
LIFETIME_SECONDS = 12 * 3600.0
MOST_SESSIONS = 200
"""The oldest gives way."""
MOST_TRIES, TRIES_SECONDS = 10, 60.0
"""Attempts at signing in, whoever makes them: on loopback all come from one address."""


@dataclass
class Session:
    """Somebody who has shown a token.

    Attributes:
        role: What the token allows.
        csrf: Stands in every form, and must come back with it.
        token: SHA-256 of the token; the session ends when that is another one.
        ends: On the clock of `Sessions`.
    """

    role: Role
    csrf: str
    token: bytes = field(repr=False)
    ends: float
    said: str = ""
    """What came of the last action, for the next page that is shown."""


class Sessions:
    """All sessions of one process; they end with it.

    Args:
        tokens: The tokens that are good now, by role; a new token ends the sessions of the old one.
        clock: Seconds; a test may pass its own.
    """

    def __init__(self, tokens: Callable[[], Mapping[Role, str]], clock: Callable[[], float] = time.monotonic) -> None:
        self._tokens, self._clock = tokens, clock
        self._open: dict[str, Session] = {}
        self._tries: deque[float] = deque()

    def may_try(self) -> bool:
        """Count an attempt at signing in; whether it may be made now."""
        now = self._clock()
        while self._tries and now - self._tries[0] >= TRIES_SECONDS:
            self._tries.popleft()
        if len(self._tries) >= MOST_TRIES:
            return False
        self._tries.append(now)
        return True

    def sign_in(self, shown: str) -> str | None:
        """The value of a cookie for who shows a good token; None for any other."""
        given = _digest(shown)
        role: Role | None = None
        for name, token in self._tokens().items():
            if hmac.compare_digest(_digest(token), given):
                role = name
        if role is None:
            return None
        value = secrets.token_urlsafe(32)
        while len(self._open) >= MOST_SESSIONS:
            del self._open[next(iter(self._open))]
        self._open[value] = Session(role, secrets.token_urlsafe(32), given, self._clock() + LIFETIME_SECONDS)
        return value

    def find(self, value: str) -> Session | None:
        """The session of a cookie, if it is open still."""
        session = self._open.get(value)
        if session is None:
            return None
        token = self._tokens().get(session.role)
        if self._clock() < session.ends and token is not None and hmac.compare_digest(_digest(token), session.token):
            return session
        self.sign_out(value)
        return None

    def sign_out(self, value: str) -> None:
        """End a session, if it is open."""
        self._open.pop(value, None)


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()
