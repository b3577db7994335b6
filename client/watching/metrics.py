"""An institution's metrics: what its receipts, outbox, files and daemon know at the moment of the question."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from typing import Any

from client.institution import Institution
from client.leaving import outbox
from client.leaving.receipts import FILE
from shared.enrolment.certificates import read_certificates
from shared.errors import CollegiumError
from shared.watching.metrics import Metric, Process, family, machine, processes

CLOCK_SECONDS = 2.0
"""When a process was started is known to the second."""


@dataclass
class Link:
    """What the daemon's processes have told it, and when (seconds since 1970); None if not, or not any more."""

    connected_since: float | None = None
    """When the SuperNode reached the coordinator."""
    ready_since: float | None = None
    """When the executor had loaded model and data."""

    def connected(self, running: Mapping[str, Process]) -> bool:
        """Whether the SuperNode that runs now reaches the coordinator."""
        return _holds(self.connected_since, running.get("supernode"))

    def ready(self, running: Mapping[str, Process]) -> bool:
        """Whether the executor that runs now is ready."""
        return _holds(self.ready_since, running.get("executor"))


def _holds(since: float | None, process: Process | None) -> bool:
    return since is not None and process is not None and process.started - CLOCK_SECONDS <= since


@dataclass
class Left:
    """What has left, by the receipts so far; each line of the log is read once.

    Args:
        institution: The site.
    """

    institution: Institution
    kinds: Counter[str] = field(default_factory=Counter)
    """How many replies of each kind."""
    bytes: int = 0
    run: dict[str, Any] = field(default_factory=dict)
    """The last receipt of an update."""
    epsilon: float | None = None
    """What the data have spent, by the last receipt that says so."""
    last_refusal: str = ""
    """Of which kind the last reply to a request to train was, if it was a refusal."""
    _read: int = 0

    def look(self) -> None:
        """Count what has been written since the last look; a log that was taken away is begun anew."""
        with suppress(FileNotFoundError), (self.institution.runtime.state / FILE).open("rb") as file:
            if file.seek(0, os.SEEK_END) < self._read:
                self.__init__(self.institution)  # type: ignore[misc]
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):  # it is being written
                    break
                self._read += len(line)
                with suppress(ValueError):
                    self._count(json.loads(line))

    def _count(self, receipt: dict[str, Any]) -> None:
        self.kinds[str(receipt["kind"])] += 1
        self.bytes += int(receipt["bytes"])
        if receipt["kind"] == "refusal":
            with suppress(ValueError, KeyError, TypeError):
                self.last_refusal = str(json.loads(receipt["body"])["kind"])
        elif receipt["kind"] == "train":
            self.last_refusal = ""
            self.run = receipt  # not of scores: in the end those of an earlier round may be asked for
        if receipt.get("epsilon") is not None:
            self.epsilon = float(receipt["epsilon"])


def metrics(institution: Institution, link: Link, left: Left) -> list[Metric]:
    """All of them. No label holds anything but words of Collegium, and this site's name.

    Args:
        institution: The site.
        link: What its daemon knows.
        left: What has left so far; looked at again.
    """
    left.look()
    running = processes(os.getpid())
    held = sum(bool(each["waiting"]) for each in outbox.waiting(institution.runtime.state))
    return [
        family(
            "collegium_site_info",
            "Who this is, and its version.",
            {(institution.name, version("collegium")): 1},
            "institution",
            "version",
        ),
        family("collegium_site_connected", "Whether the coordinator is reached.", float(link.connected(running))),
        family("collegium_site_ready", "Whether model and data are loaded.", float(link.ready(running))),
        family(
            "collegium_site_answers_total",
            "Replies that have left, by their receipts.",
            {(kind,): float(count) for kind, count in sorted(left.kinds.items())},
            "kind",
            counter=True,
        ),
        family("collegium_site_sent_bytes_total", "Bytes of these replies.", left.bytes, counter=True),
        *_last_round(left),
        family("collegium_site_updates_waiting", "Updates that wait to be released.", held),
        *_privacy(institution, left),
        *_certificate(institution),
        *machine(institution.runtime.state, running),
    ]


def _last_round(left: Left) -> Iterable[Metric]:
    if not left.run:
        return
    yield family("collegium_site_round", "Round of the last update.", left.run["round"])
    yield family(
        "collegium_site_last_answer_timestamp_seconds",
        "When the last update left.",
        datetime.fromisoformat(left.run["time"]).timestamp(),
    )


def _privacy(institution: Institution, left: Left) -> Iterable[Metric]:
    budget = epsilon_budget(institution)
    if left.epsilon is not None:
        yield family("collegium_site_epsilon_spent", "What the data have spent, as told last.", left.epsilon)
    if budget is not None:
        yield family("collegium_site_epsilon_budget", "What they may spend.", budget)
        yield family("collegium_site_epsilon_left", "What is left of it.", max(0.0, budget - (left.epsilon or 0.0)))


def epsilon_budget(institution: Institution) -> float | None:
    """What the site's data may spend in training: by its policy, else by the agreement; None without a limit."""
    if institution.policy.max_epsilon is not None:
        return institution.policy.max_epsilon
    from shared.federation import load_federation  # what a federation is made of, which a daemon does without

    with suppress(CollegiumError):
        privacy = load_federation(institution.federation).privacy
        return privacy.epsilon if privacy else None
    return None


def _certificate(institution: Institution) -> Iterable[Metric]:
    with suppress(OSError, ValueError):
        ends = max(each.not_valid_after_utc for each in read_certificates(institution.server.ca.read_bytes()))
        yield family(
            "collegium_certificate_expiry_timestamp_seconds",
            "When a certificate ends.",
            {("authority",): ends.timestamp()},
            "certificate",
        )
