"""What aggregation costs the coordinator: memory, and CPU seconds beside a bare running sum, in turns in one process.

Updates are those of BERT-base with LoRA of rank 8 on query and value (294,912 numbers), or what a method sends of them,
of one task and without its head. `fed-sb` is measured at rank 8, where it sends 6 kB, and at the rank at which it sends
as much as the others. The bare sum adds every array to one of its own, in float32, without weights, norms or a check.
Memory is the peak above what was there at the start (tracemalloc), with the update at hand; each is an array of its own
then, so that one that is kept shows. For seconds a few updates are taken again and again.
"""

import statistics
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from server.aggregation import ClientUpdate
from server.aggregation.methods import aggregate, aggregator_of
from shared.adapter import factor_name, is_sent
from shared.codec import Arrays
from shared.federation import Federation
from shared.federation.methods import METHODS, Factor, MethodName
from shared.process.console import announce
from simulations.benchmarks.measured import Asked, Cell, Comparison, Findings, Goal, Table, cpu_seconds, in_turns

ADAPTED = {name: method for name, method in METHODS.items() if not method.frozen}
"""Of heads alone there is nothing here to add up."""
LAYERS, WIDTH = 12, 768
"""Of BERT-base."""
RANK, SAME_BYTES = 8, 111
"""The second is the rank at which r x r numbers are as many as A and B of rank 8 have."""
POOL = 8
"""Updates that are made; 9 MB of them are more than what a core's own cache holds."""
UPDATES, FEW = 1000, 50
"""Of linear methods, and of those that hold all updates of a round."""
MOST, LITTLE = Goal(kind="at most", value=3), 1e5
"""What is asked for, of updates of more bytes than these: of fewer nobody waits for the sum."""
ROUND = 1


@dataclass(frozen=True)
class Scene:
    """What a round of one method adds up."""

    federation: Federation
    state: Arrays
    pool: list[Arrays]
    """A few updates: what institutions send in the round."""


def findings(asked: Asked) -> Findings:
    """Linear methods beside the bare sum; memory of all, and time of those that are not linear."""
    number, few = (8, 3) if asked.small else (UPDATES, FEW)
    linear = [(name, RANK) for name, method in ADAPTED.items() if method.linear] + [("fed-sb", SAME_BYTES)]
    comparisons: list[Comparison] = []
    each: list[list[Cell]] = []
    for name, rank in linear:
        announce(f"{name}, rank {rank}")
        scene = scene_of(name, rank)
        comparisons.append(beside_bare_sum(scene, number, asked.turns))
        microseconds = [_microseconds(scene, fewer, asked.turns) for fewer in (number // 4, number // 2, number)]
        each.append([comparisons[-1].subject, *memory(scene, number), *microseconds])
    others: list[list[Cell]] = []
    for name in [name for name, method in ADAPTED.items() if not method.linear]:
        announce(name)
        scene = scene_of(name, RANK)
        for fewer in (max(1, few // 10), few):
            others.append([name, fewer, *memory(scene, fewer), _seconds(scene, fewer)])
    columns = ["update, MB", "peak, MB", "peak / update"]
    by_number = [f"µs an update of {fewer:,}" for fewer in (number // 4, number // 2, number)]
    return Findings(
        comparisons=comparisons,
        tables=[
            Table(title=f"Memory of {number:,} updates", columns=["method", *columns, *by_number], rows=each),
            Table(
                title="Methods that hold all updates of a round",
                columns=["method", "updates", *columns, "CPU seconds"],
                rows=others,
            ),
        ],
    )


def beside_bare_sum(scene: Scene, number: int, turns: int) -> Comparison:
    """CPU seconds of a linear method and of the bare sum, over as many updates."""
    method, rank = scene.federation.rounds.method, scene.federation.adapter.rank
    sides = {
        "theirs": lambda: cpu_seconds(lambda: bare_sum(scene.pool, number)),
        "ours": lambda: _seconds(scene, number),
    }
    in_turns(sides, 1)  # the first is slower
    return Comparison(
        subject=f"{method}, rank {rank}",
        against="a bare NumPy sum",
        unit=f"CPU seconds for {number:,} updates of {_bytes(scene) / 1e6:.3g} MB",
        goal=MOST if _bytes(scene) > LITTLE else None,
        **in_turns(sides, turns),
    )


def memory(scene: Scene, number: int) -> list[float]:
    """Megabytes of an update, of the peak above the start of an aggregation, and their ratio."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        step(scene, number, copied=True)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    size = _bytes(scene)
    return [size / 1e6, peak / 1e6, peak / size]


def step(scene: Scene, number: int, *, copied: bool = False) -> Arrays:
    """What the coordinator computes of a round's updates, which come one at a time."""
    federation = scene.federation
    new, *_ = aggregate(scene.state, incoming(scene.pool, number, copied=copied), federation=federation, round=ROUND)
    return aggregator_of(federation).after(new)


def bare_sum(pool: Sequence[Arrays], number: int) -> Arrays:
    """The arrays of as many updates added up, as plainly as NumPy can."""
    sums = {name: np.zeros_like(array) for name, array in pool[0].items()}
    for index in range(number):
        for name, array in pool[index % len(pool)].items():
            sums[name] += array
    return sums


def incoming(pool: Sequence[Arrays], number: int, *, copied: bool = False) -> Iterator[ClientUpdate]:
    """Updates of as many institutions, one at a time."""
    for index in range(number):
        arrays: Mapping[str, np.ndarray] = pool[index % len(pool)]
        if copied:
            yield ClientUpdate(f"site-{index}", {"topics": 100 + index}, {n: a.copy() for n, a in arrays.items()})
        else:
            yield ClientUpdate(f"site-{index}", {"topics": 100 + index}, dict(arrays))


def scene_of(method: MethodName, rank: int) -> Scene:
    """A round of a method, its state and updates drawn at random."""
    federation = Federation.model_validate(
        {
            "name": "benchmark",
            "backbone": {"name": "google-bert/bert-base-uncased", "sha256": "0" * 64},
            "adapter": {"rank": rank, "target_modules": "query,value"},
            "tasks": {"topics": {"type": "text-classification", "labels": ["one", "other"]}},
            "rounds": {"institutions": ["site-0"], "quorum": 1, "method": method},
        }
    )
    rng = np.random.default_rng(13)
    shapes: dict[Factor, tuple[int, int]] = {"A": (rank, WIDTH), "B": (WIDTH, rank)}
    if "R" in federation.method.factors(ROUND):
        shapes["R"] = (rank, rank)
    names = {
        factor_name(f"base_model.model.encoder.layer.{layer}.attention.self.{module}", factor): shape
        for layer in range(LAYERS)
        for module in ("query", "value")
        for factor, shape in shapes.items()
    }
    sent = {name: shape for name, shape in names.items() if is_sent(name, federation.method, ROUND)}
    return Scene(federation, _random(rng, names), [_random(rng, sent) for _ in range(POOL)])


def _random(rng: np.random.Generator, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    return {name: (0.01 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def _bytes(scene: Scene) -> int:
    return sum(array.nbytes for array in scene.pool[0].values())


def _seconds(scene: Scene, number: int) -> float:
    return cpu_seconds(lambda: step(scene, number))


def _microseconds(scene: Scene, number: int, turns: int) -> float:
    """Of an update among so many, the median of all turns."""
    return 1e6 * statistics.median(_seconds(scene, number) for _ in range(turns)) / number
