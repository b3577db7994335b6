"""A coordinator sends what no honest one would: every field of each request changed, out of turn, out of bounds."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared import codec
from shared.codec import Arrays
from shared.model.lora import frozen, lora_layers
from shared.protocol import Refusal
from shared.state import pack_steps
from simulations.attacks import Attack, Outcome
from simulations.attacks.stage import TINY_RECORDS
from simulations.attacks.wire import Victim

TASK = "clauses"
ESCAPE = "\x1b[2J\x1b]0;owned\x07"
"""Clears a terminal and names its window."""
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**12,
    1.5,
    float("nan"),
    "",
    "r1\n" + ESCAPE,
    "../../../etc/passwd",
    "x" * 100_000,
    [],
    {"round": 1},
)
"""What is put into each field in turn."""


@dataclass(frozen=True)
class Asked:
    """An honest request, as its fields."""

    kind: str
    body: Mapping[str, Any]
    blobs: Mapping[str, bytes]

    def changed(self, **body: Any) -> "Asked":
        """The same with other fields."""
        return Asked(self.kind, {**self.body, **body}, self.blobs)

    def carrying(self, **blobs: bytes) -> "Asked":
        """The same with other arrays."""
        return Asked(self.kind, self.body, {**self.blobs, **blobs})


def _victim(folder: Path, method: str) -> Victim:
    records = TINY_RECORDS[TASK][::3]
    data = {TASK: {"train": records[::2], "validation": records[1::4], "test": records[3::4]}}
    return Victim(folder, data, rounds={"method": method, "count": 3})


def _honest(victim: Victim) -> list[Asked]:
    """To train round 2, and to validate it."""
    fields = {"base_since": "", "base_version": ""}
    folds = victim.federation.method.folds
    blobs = {"state": victim.blob(), "base": b""}

    def version(round: int) -> dict[str, str]:
        return {"base_version": f"r1:{round}"} if folds else {}

    train = {"run": "r1", "round": 2, "rounds": 3, "ledger": None, "taken": 0} | fields | version(1)
    validate = {"run": "r1", "round": 2, "split": "validation", "released": False} | fields | version(2)
    return [Asked("TrainRequest", train, blobs), Asked("EvaluateRequest", validate, blobs)]


def _mutated(asked: Asked) -> Iterator[Asked]:
    """Each field in turn with each of `VALUES` but those that it may have; and one field too many."""
    allowed: dict[str, tuple[Any, ...]] = {
        "ledger": (None,),
        "base_since": ("",),
        "base_version": ("",) if not asked.body["base_version"] else (),
    }
    for name in ("spec_digest", *asked.body):
        for value in VALUES:
            legal = value == asked.body.get(name) and type(value) is type(asked.body.get(name))
            if not legal and not any(value == other and type(value) is type(other) for other in allowed.get(name, ())):
                yield asked.changed(**{name: value})
    yield asked.changed(extra=1)


def _out_of_turn(asked: Asked) -> Iterator[Asked]:
    """Rounds, splits and versions that are well-formed and wrong, after round 2 has been trained."""
    if asked.kind == "TrainRequest":
        yield from (asked.changed(round=1), asked.changed(round=4), asked.changed(rounds=2), asked.changed(rounds=4))
        yield from (asked.changed(taken=1), asked.changed(taken=3))
    else:
        wrong = [(n, s, r) for n in (0, 1, 3, 4) for s in ("train", "validation", "test") for r in (False, True)]
        honest = {(0, "test", False), (3, "validation", False), (1, "test", True), (3, "test", True)}
        for round, split, released in wrong:
            if (round, split, released) not in honest:
                yield asked.changed(round=round, split=split, released=released)
    for version in ("r1:7", "r2:1", "r1:0" if asked.kind == "TrainRequest" else "r1:1", "r1:999999", "x:y:z"):
        yield asked.changed(base_version=version)


def _arrays(victim: Victim, asked: Asked) -> Iterator[Asked]:
    """States of other names, shapes and values."""
    state = codec.decode(victim.blob(), "float32")
    one = next(name for name in state if ".lora_A." in name)

    def put(name: str, array: np.ndarray) -> Asked:
        return asked.carrying(state=codec.encode(state | {name: array}, "float32"))

    yield put(f"adapter/{ESCAPE}", np.zeros(2, np.float32))
    yield put(f"head/{TASK}/{ESCAPE}", np.zeros(2, np.float32))
    yield put(f"control/{one}", state[one])
    yield put(f"base/{ESCAPE}.B", np.zeros((2, 2), np.float32))
    yield put(one, np.zeros(3, np.float32))
    for value in (np.nan, np.inf, 1e30, 1e6):
        yield put(one, np.full_like(state[one], value))
    yield asked.carrying(state=b"")
    yield asked.carrying(state=b"\xff" * 1000)
    yield asked.carrying(state=codec.encode({name: array for name, array in state.items() if name != one}, "float32"))


def _steps(victim: Victim, asked: Asked) -> Iterator[Asked]:
    """Steps of the frozen weights: where the method never makes any, and such as nobody would."""
    layers = {name: frozen(layer) for name, layer in lora_layers(victim.site.model.encoder).items()}

    def steps(value: float, wide: int = 0, name: str = "") -> bytes:
        moved = {
            name or layer: (np.full((w.out_features + wide, 1), value), np.ones((1, w.in_features)))
            for layer, w in layers.items()
        }
        made: Arrays = pack_steps({of: (b.astype(np.float32), a.astype(np.float32)) for of, (b, a) in moved.items()})
        return codec.encode(made, "float32")

    folds = victim.federation.method.folds
    for base in (steps(np.nan), steps(1e30), steps(1e5), steps(1.0, wide=1), steps(1.0, name=ESCAPE), b"\xff" * 99):
        yield asked.carrying(base=base).changed(**({} if folds else {"base_version": "r1:1"}))
    if not folds:
        yield asked.carrying(base=steps(100.0)).changed(base_version="r1:1")
        yield asked.carrying(base=steps(100.0))
    else:
        yield asked.carrying(base=steps(1.0)).changed(base_since="r1:9")


def _fields(folder: Path, method: str) -> Outcome:
    """Send all of these; whatever is not refused, moves a frozen weight or puts an escape code into a log, succeeds."""
    victim = _victim(folder, method)
    honest = _honest(victim)
    assert not isinstance(victim.ask(honest[0].kind, honest[0].body, **honest[0].blobs), Refusal)
    base, attempts, succeeded, got = victim.site.model.base, 0, 0, dict[str, int]()
    base.reset()
    weights = _frozen(victim)
    makers: tuple[Callable[[Asked], Iterator[Asked]], ...] = (
        _mutated,
        _out_of_turn,
        lambda asked: _arrays(victim, asked),
        lambda asked: _steps(victim, asked),
    )
    with _listening() as lines:
        for attempt in (attempt for asked in honest for make in makers for attempt in make(asked)):
            attempts += 1
            lines.clear()
            reply = victim.ask(attempt.kind, attempt.body, **attempt.blobs)
            escapes = any(not line.isprintable() for line in lines)
            if isinstance(reply, Refusal):
                escapes |= not reply.reason.isprintable()
            moved = _frozen(victim) != weights
            answered = reply is not None and not isinstance(reply, Refusal)
            succeeded += answered or moved or escapes
            for what, so in {"answered": answered, "moved": moved, "escapes": escapes}.items():
                got[what] = got.get(what, 0) + so
            base.reset()
    for asked in honest:  # an honest coordinator is answered after all that
        assert not isinstance(victim.ask(asked.kind, asked.body, **asked.blobs), Refusal)
    note = ", ".join(f"{count} {what}" for what, count in got.items() if count)
    return Outcome(attempts, succeeded, note)


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Every line that is logged."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, listener = logging.getLogger("collegium.client"), Listener()
    logger.addHandler(listener)
    try:
        yield lines
    finally:
        logger.removeHandler(listener)


def _frozen(victim: Victim) -> str:
    """A digest of the frozen weights, and their version."""
    found = hashlib.sha256(repr(victim.site.model.base.version).encode())
    for layer in lora_layers(victim.site.model.encoder).values():
        found.update(frozen(layer).weight.detach().numpy().tobytes())
    return found.hexdigest()


ATTACKS = (
    Attack(
        "every field of every request changed (fedavg)",
        "a coordinator",
        "Every field of a request has a type, a range and an expected order; a refused request changes nothing.",
        lambda folder: _fields(folder, "fedavg"),
    ),
    Attack(
        "every field of every request changed (fedex)",
        "a coordinator",
        "Every field of a request has a type, a range and an expected order; a refused request changes nothing.",
        lambda folder: _fields(folder, "fedex"),
    ),
)
