"""Notices: what somebody should hear of without looking, by mail, webhook or chat, once.

Whoever looks says at every look what holds now. What is new is sent by a process of its own (`sending.py`), so that a
slow mail server delays nobody, and again until it has arrived; what comes back within the hour is counted and said
together.
No notice holds anything that an institution or an error wrote: titles and texts are made of names, ids and numbers.
"""

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shared.errors import CollegiumError, ConfigError
from shared.process.files import check_private, write_synced

LOOK_SECONDS = 5.0
FOLD_SECONDS = 3600.0
"""What comes back within this time is counted, not sent."""
FORGET_SECONDS = 7 * 86400.0
PAUSES = (30.0, 120.0, 600.0, 3600.0)
"""Seconds before each further try; the last one again and again, for a day."""
LONGEST_SECONDS = 86400.0
SEND_SECONDS = 60.0
"""How long one try may take."""


@dataclass(frozen=True)
class Notice:
    """Something that holds now."""

    key: str
    """What it is; the same again is the same key."""
    title: str
    text: str
    """What to do."""


@dataclass
class _Waiting:
    """A notice on its way."""

    notice: Notice
    since: float
    due: float
    only: list[str] | None = None
    """Marks of the URLs that it has not reached; None for all."""
    tries: int = 0


def urls_of(file: Path) -> list[str]:
    """The URLs in a file, one a line; lines that begin with # are comments.

    Raises:
        ConfigError: It cannot be read, others may read it, or there is none in it.
    """
    check_private(file)
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Expected URLs for notices in {file}, but it cannot be read ({error}).") from None
    if found := [line for line in lines if line and not line.startswith("#")]:
        return found
    raise ConfigError(f"Expected a URL on a line of {file}, such as mailto://..., but there is none.")


def mark(url: str) -> str:
    """A name for a URL that says nothing of it."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def check_notifying(file: Path) -> None:
    """Raise ConfigError unless notices can be sent to the URLs of a file."""
    urls_of(file)
    if find_spec("apprise") is None:
        raise ConfigError("Expected apprise, which sends notices, but it is missing: pip install 'collegium[notify]'.")


def send(file: Path, notice: Notice, only: Sequence[str] | None) -> list[str]:
    """Send a notice, by a process of its own; the marks of the URLs that it has not reached."""
    asked = {"file": str(file), "title": notice.title, "text": notice.text, "only": only}
    with suppress(OSError, ValueError, subprocess.SubprocessError):
        command = [sys.executable, "-P", "-m", "shared.watching.sending"]
        done = subprocess.run(
            command, input=json.dumps(asked).encode(), capture_output=True, timeout=SEND_SECONDS, check=True
        )
        return [str(each) for each in json.loads(done.stdout)]
    with suppress(ConfigError):
        return list(only) if only is not None else [mark(url) for url in urls_of(file)]
    return ["none"]


@dataclass
class Notifier:
    """Sends what is new, and remembers what it has sent over restarts.

    Args:
        file: The URLs.
        memory: Where it is remembered.
        announce: Told once when a notice cannot be sent.
        sender: See `send`.
        clock: Seconds since 1970; a test may pass its own.
    """

    file: Path
    memory: Path
    announce: Callable[[str], None]
    sender: Callable[[Path, Notice, Sequence[str] | None], list[str]] = send
    clock: Callable[[], float] = time.time
    _told: dict[str, dict[str, Any]] = field(default_factory=dict)
    _holds: set[str] = field(default_factory=set)
    _waiting: list[_Waiting] = field(default_factory=list)
    since: float = 0.0
    """When notices were first asked for here: what was over by then is no news."""

    def __post_init__(self) -> None:
        kept: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            kept = json.loads(self.memory.read_text(encoding="utf-8"))
        self.since, self._told = float(kept.get("since", self.clock())), dict(kept.get("told", {}))
        self._remember()

    def look(self, found: Iterable[Notice]) -> None:
        """Take up what holds now, and send what is due."""
        now, holds = self.clock(), set[str]()
        for notice in found:
            holds.add(notice.key)
            before = self._told.get(notice.key)
            if before is None or (notice.key not in self._holds and not before["holds"]):
                self._come(notice, before, now)
        for key in self._told:
            if self._told[key]["holds"] != (key in holds):
                self._told[key]["holds"] = key in holds
                self._remember()
        self._holds = holds
        self._send(now)

    def _come(self, notice: Notice, before: dict[str, Any] | None, now: float) -> None:
        """Something is new, or holds again."""
        if before is not None and now - before["time"] < FOLD_SECONDS:
            before["more"] += 1
        else:
            more = before["more"] if before else 0
            text = f"{notice.text} ({more + 1} times since the last notice.)" if more else notice.text
            self._waiting.append(_Waiting(Notice(notice.key, notice.title, text), now, now))
            before = {"time": now, "more": 0}
        self._told[notice.key] = before | {"holds": True}
        self._remember()

    def _send(self, now: float) -> None:
        for each in list(self._waiting):
            if each.due > now:
                continue
            each.only = self.sender(self.file, each.notice, each.only)
            if not each.only or now - each.since > LONGEST_SECONDS:
                self._waiting.remove(each)
                continue
            if each.tries == 0:
                self.announce(
                    f"{len(each.only)} addresses did not get the notice {each.notice.title!r}; it is tried again."
                )
            each.due = now + PAUSES[min(each.tries, len(PAUSES) - 1)]
            each.tries += 1

    def _remember(self) -> None:
        old = self.clock() - FORGET_SECONDS
        self._told = {key: told for key, told in self._told.items() if told["holds"] or told["time"] > old}
        with suppress(OSError):  # a full disk is told of by other means
            write_synced(self.memory, json.dumps({"since": self.since, "told": self._told}).encode())


def watch(
    notifier: Notifier,
    found: Callable[[float], Iterable[Notice]],
    *,
    over: Callable[[float], bool],
    announce: Callable[[str], None],
) -> None:
    """Look and send until all is over. What goes wrong is said once, and tried again.

    Args:
        notifier: Sends.
        found: What holds now; told the time before which all is no news.
        over: Waits some seconds; whether the daemon ends.
        announce: Told what goes wrong.
    """
    said = ""
    while True:
        try:
            notifier.look(found(notifier.since))
        except (CollegiumError, OSError) as error:
            if str(error) != said:
                said = str(error)
                announce(f"Notices cannot be looked for: {said}")
        if over(LOOK_SECONDS):
            return


def in_background(
    notifier: Notifier, found: Callable[[float], Iterable[Notice]], announce: Callable[[str], None]
) -> Callable[[], None]:
    """`watch` in a thread; what ends it."""
    done = threading.Event()
    thread = threading.Thread(
        target=watch, args=(notifier, found), kwargs={"over": done.wait, "announce": announce}, daemon=True
    )
    thread.start()

    def end() -> None:
        done.set()
        thread.join(1.0)  # it may be waiting for a mail server

    return end
