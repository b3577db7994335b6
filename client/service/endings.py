"""Why a site ends: its SuperNode for good, or until somebody mends it, as Flower 1.41 says; a job after its round."""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from client.institution import Institution
from client.keys import next_key
from shared.errors import ProcessError

RUNTIME_HOST = "127.0.0.1"
STALE_SECONDS = 100.0
"""How long a site whose key is enrolled is refused because Flower 1.41 still counts its killed SuperNode as online:
60 s after its last sign of life, and the supervisor's pause between two attempts."""
UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
NOT_ENROLLED, REVOKED = "Its key is not enrolled.", "Its key was revoked."
"""What the coordinator's door (`server.door.authentication`) adds to a refusal of a key that it does not know."""
REFUSED = "Failed to activate SuperNode"
"""What Flower writes then."""
OVER = "collegium.over: "
"""How a line for the daemon begins: a job has answered its round (`client.service.once`)."""
MOST_DEATHS = 3
"""Of an executor, in a job that is to answer one round."""


class Hopeless:
    """Says why a SuperNode has ended for good: neither a restart nor the coordinator mends it.

    Args:
        institution: Its file.
        port: The loopback port between SuperNode and executor.
    """

    def __init__(self, institution: Institution, port: int) -> None:
        self._institution, self._port = institution, port
        self._key = content_of(institution.identity.key)

    def __call__(self, _code: int, tail: str) -> str | None:
        """The sentence, from the last lines of its log; None for any other end."""
        address = self._institution.server.address
        if REFUSED in tail and REVOKED in tail and not self._is_replaced():
            return (
                f"Expected the coordinator at {address} to know the key {self._institution.identity.key}, but it has "
                "revoked it, or this institution has left; it is not enrolled again, so ask for a new invitation."
            )
        if "address already in use" in tail:
            return port_taken(self._port)
        if "Exit Code: 600" in tail:
            return (
                f"Expected server.address to be host:port, but it is {address!r}; correct it in the institution file."
            )
        return None

    def _is_replaced(self) -> bool:
        """Whether the key is being replaced, or was since the last look: then the next start has the right one."""
        key, before = self._institution.identity.key, self._key
        self._key = content_of(self._institution.identity.key)
        return next_key(key).exists() or self._key != before


class Patience:
    """Says what keeps a SuperNode from working until the coordinator mends it.

    Args:
        institution: Its file.
    """

    def __init__(self, institution: Institution) -> None:
        self._institution = institution
        self._refused_since: float | None = None

    def __call__(self, _code: int, tail: str) -> str | None:
        """The sentence, from the last lines of its log; None for any other end."""
        address, key = self._institution.server.address, self._institution.identity.key
        again = "trying again until it does."
        if REFUSED in tail and NOT_ENROLLED in tail:
            self._refused_since = None
            return (
                f"The coordinator at {address} does not know the key {key}: it is not enrolled, or not any more. Send "
                f"it {key.with_suffix('.pub')}; {again}"
            )
        if REFUSED in tail and REVOKED not in tail:  # it knows the key, and counts its last process as online
            now = time.monotonic()
            self._refused_since = self._refused_since or now
            if now - self._refused_since < STALE_SECONDS:
                return None
            return (
                f"The coordinator at {address} has counted another process with the key {key} as online for "
                f"{STALE_SECONDS:.0f} s: stop that one, since a key is for one daemon; trying again."
            )
        self._refused_since = None
        if UNTRUSTED in tail:
            detail = tail.split("certificate verify failed: ", 1)[-1].split(" (_ssl", 1)[0].splitlines()[0]
            return (
                f"The coordinator at {address} shows no certificate that {self._institution.server.ca} vouches for "
                f"({detail}): check server.address and this machine's clock, or get a new ca.crt; {again}"
            )
        if "SSL/TLS handshake error" in tail:
            return f"What answers at {address} does not speak TLS as a coordinator does: check server.address; {again}"
        if "Exit Code: 606" in tail:
            return (
                f"The coordinator at {address} does not run the same version of Flower: one of the two has to install "
                f"the other's version of Collegium; {again}"
            )
        return None


def port_taken(port: int) -> str:
    """What to do about a loopback port that somebody else uses."""
    return (
        f"Expected port {port} on {RUNTIME_HOST} to be free for the SuperNode and its executor, but it is taken; "
        "set runtime.port in the institution file to another port, or to 0 for any free one, and start again."
    )


def content_of(path: Path) -> bytes:
    """Of a file; nothing if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


@dataclass(frozen=True)
class Over:
    """Why a site that was to answer one round ends, and whether it could."""

    text: str
    failed: bool = False
    answered: bool = True
    """Whether anything was answered that was asked for."""

    def line(self) -> str:
        """For the daemon."""
        return f"{OVER}{json.dumps(asdict(self))}"

    def header(self) -> str:
        """For the SuperNode."""
        return quote(json.dumps(asdict(self)))


def read_line(line: str) -> Over | None:
    """What `Over.line` has written, if it is such a line."""
    return Over(**json.loads(line.removeprefix(OVER))) if line.startswith(OVER) else None


def read_header(value: str) -> Over:
    """What `Over.header` says."""
    return Over(**json.loads(unquote(value)))


class Ending:
    """What a daemon goes by that is to end after one round.

    Attributes:
        over: Why it ends, once it does.
    """

    def __init__(self) -> None:
        self.over: Over | None = None
        self._deaths = 0

    def sift(self, lines: Iterable[str]) -> Iterator[str]:
        """The lines of a child's log that are not for this."""
        for line in lines:
            if found := read_line(line):
                self.over = self.over or found
            else:
                yield line

    def reached(self) -> bool:
        """Whether the daemon is to end."""
        return self.over is not None

    def outcome(self, institution: Institution, *, connected: bool) -> str:
        """What the operator is told at the end.

        Args:
            institution: Its file.
            connected: Whether the coordinator was there, as far as is known.

        Raises:
            ProcessError: No round was answered, and not because nobody asked.
        """
        name, address = institution.name, institution.server.address
        if self.over is None:
            raise ProcessError(f"{name} was stopped before it had answered a round.")
        if not (connected or self.over.failed or self.over.answered):
            raise ProcessError(
                f"{self.over.text} {name} was not connected to the coordinator at {address}: see what stands above."
            )
        if self.over.failed:
            raise ProcessError(self.over.text)
        return self.over.text

    def give_up(self, _code: int, _tail: str) -> str | None:
        """For the supervisor: an executor that dies again and again answers no round."""
        self._deaths += 1
        if self._deaths < MOST_DEATHS:
            return None
        return f"The executor has died {self._deaths} times without an answer to a round; its log says more."
