"""Answers that need the model's libraries, asked of `collegium client ... --json` in processes of their own."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import LONGEST_LINE, plain

LONGEST_SECONDS = 3600.0


@dataclass(frozen=True)
class Told:
    """What came of it."""

    found: dict[str, Any] | None
    """What was printed; None if it failed."""
    wrong: str = ""
    """Why."""


class Child:
    """One question, asked in the background, once at a time.

    Args:
        words: Of the command line, after `collegium`.
        codes: Exit codes with which there is an answer.
        kept: Keeps of an answer what is shown.
    """

    def __init__(
        self, words: Sequence[str], codes: Sequence[int] = (0,), kept: Callable[[dict[str, Any]], dict[str, Any]] = dict
    ) -> None:
        self._words, self._codes, self._kept = words, codes, kept
        self._thread: threading.Thread | None = None
        self.told: Told | None = None

    @property
    def busy(self) -> bool:
        """Whether it is being asked."""
        return self._thread is not None and self._thread.is_alive()

    def ask(self) -> None:
        """Ask, unless it is being asked."""
        if not self.busy:
            self._thread = threading.Thread(target=self._run, name=self._words[-1], daemon=True)
            self._thread.start()

    def _run(self) -> None:
        command = [sys.executable, "-P", "-m", "collegium", *self._words, "--json"]
        try:
            ended = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LONGEST_SECONDS,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            self.told = Told(None, plain(f"It could not be asked: {error}"))
            return
        try:
            found = self._kept(json.loads(ended.stdout)) if ended.returncode in self._codes else None
        except (ValueError, LookupError, TypeError):
            found = None
        said = (ended.stderr.strip().splitlines() or [f"it ended with {ended.returncode}"])[-1]
        self.told = Told(found, "" if found is not None else plain(said.removeprefix("error: "), LONGEST_LINE))
