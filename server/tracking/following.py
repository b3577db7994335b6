"""What of a run is new to a tracker: parameters, a row of numbers for each round, and in the end the release."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.release.making import release
from server.store import UNENDED, Store, replies, rounds, runs, scores, spending
from server.tracking.trackers import Tracker
from shared.errors import ConfigError, plain
from shared.process.files import write_synced
from shared.tasks import build_task

LONGEST_VALUE = 500
"""Of a parameter; MLflow takes 6,000 characters, and lists of labels are long."""


@dataclass
class Follower:
    """Brings each tracker to where the store is; one that fails is tried again at the next look, and told of once.

    Args:
        store: The coordinator's.
        trackers: By name.
        memory: Where it is remembered what each one has, over restarts.
        announce: Told what fails.
    """

    store: Store
    trackers: Mapping[str, Tracker]
    memory: Path
    announce: Callable[[str], None]
    _has: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    _begun: set[tuple[str, str]] = field(default_factory=set)
    _said: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with suppress(OSError, ValueError):
            self._has = json.loads(self.memory.read_text(encoding="utf-8"))

    def look(self) -> None:
        """Tell every tracker what is new.

        Raises:
            StoreError: The store cannot be read.
        """
        rows = [row for row in self.store.rows(runs) if row["status"] != "queued"]
        for name, tracker in self.trackers.items():
            try:
                for row in rows:
                    self._follow(name, tracker, row)
                self._said.pop(name, None)
            except Exception as error:  # whatever a library raises: no tracker is worth a run, nor another tracker
                if self._said.get(name) != type(error).__name__:
                    self._said[name] = type(error).__name__
                    self.announce(f"{name} fails, and is tried again: {type(error).__name__}: {plain(str(error), 300)}")

    def _follow(self, name: str, tracker: Tracker, row: Mapping[str, Any]) -> None:
        run, ended = row["run"], row["status"] not in UNENDED
        has = self._has.setdefault(name, {}).setdefault(run, {"round": 0, "ended": None})
        if has["ended"] is not None and has["ended"] == row["ended"]:
            return
        done = [each for each in self.store.rows(rounds, run) if each["round"] > has["round"]]
        if not (done or ended or (name, run) not in self._begun):
            return
        if (name, run) not in self._begun:
            tracker.begin(run, row["federation"], parameters(self.store, run))
            self._begun.add((name, run))
        for each in done:
            tracker.scalars(run, each["round"], of_round(self.store, run, each))
            self._remember(has, round=each["round"])
        if ended:
            if row["status"] == "completed":
                for step, values in of_tests(self.store, run).items():
                    tracker.scalars(run, step, values)
                self._release(tracker, run)
            tracker.end(run, completed=row["status"] == "completed")
            self._begun.discard((name, run))
            self._remember(has, ended=row["ended"])

    def _release(self, tracker: Tracker, run: str) -> None:
        with tempfile.TemporaryDirectory(prefix="collegium-") as folder, suppress(ConfigError):  # nothing to release
            tracker.release(run, release(self.store, run, Path(folder) / "release"))

    def _remember(self, has: dict[str, Any], **values: Any) -> None:
        has.update(values)
        write_synced(self.memory, json.dumps(self._has).encode())


def parameters(store: Store, run: str) -> dict[str, str]:
    """The agreement of a run, a key each, as `rounds.count`; values are cut at LONGEST_VALUE."""
    agreed = store.agreement(run)
    return {"digest": agreed.digest, **dict(_flat("", agreed.model_dump(mode="json", exclude_none=True)))}


def of_round(store: Store, run: str, row: Mapping[str, Any]) -> dict[str, float]:
    """What was measured in a round: its score, seconds, bytes, and scores and epsilon by institution."""
    number = row["round"]
    answers = [each for each in store.rows(replies, run) if each["round"] == number]
    known = {
        "score": row["score"],
        "seconds": row["seconds"],
        "participants": row["participants"],
        "norm": row["norm"],
        "bytes/up": sum(each["bytes_up"] for each in answers),
        "bytes/down": sum(each["bytes_down"] for each in answers),
    }
    values = {key: float(value) for key, value in known.items() if value is not None}
    values |= {
        f"epsilon/{each['institution']}": each["epsilon"]
        for each in store.rows(spending, run)
        if each["round"] == number
    }
    return values | _scores(store, run, number, ("validation",))


def of_tests(store: Store, run: str) -> dict[int, dict[str, float]]:
    """Scores on test records, by the round of the state that was scored."""
    splits = ("test", "personal")
    steps = sorted({row["round"] for row in store.rows(scores, run) if row["split"] in splits})
    return {step: _scores(store, run, step, splits) for step in steps}


def _scores(store: Store, run: str, number: int, splits: tuple[str, ...]) -> dict[str, float]:
    metrics = {name: build_task(name, spec).metric for name, spec in store.agreement(run).tasks.items()}
    return {
        f"{row['split']}/{row['task']}/{row['institution']}": row["value"]
        for row in store.rows(scores, run)
        if row["round"] == number and row["split"] in splits and row["metric"] == metrics.get(row["task"])
    }


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner)
    else:
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        yield prefix, shown[:LONGEST_VALUE]
