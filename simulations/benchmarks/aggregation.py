"""What aggregation costs the coordinator: memory, and CPU seconds beside a bare running sum, in turns in one process.

    OMP_NUM_THREADS=1 python -m simulations.benchmarks.aggregation

Updates are those of BERT-base with LoRA of rank 8 on query and value (294,912 numbers), or what a method sends of them,
of one task and without its head. `fed-sb` is measured at rank 8, where it sends 6 kB, and at the rank at which it sends
as much as the others. The bare sum adds every array to one of its own, in float32, without weights, norms or a check.
Memory is the peak above what was there at the start (tracemalloc), with the update at hand; each is an array of its own
then, so that one that is kept shows. For seconds a few updates are taken again and again.
"""

import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import typer

from server.aggregation import ClientUpdate
from server.aggregation.methods import aggregate, aggregator_of
from shared.adapter import factor_name, is_sent
from shared.codec import Arrays
from shared.federation import Federation
from shared.federation.methods import METHODS, Factor, MethodName
from shared.process.console import announce, print_table

ADAPTED = {name: method for name, method in METHODS.items() if not method.frozen}
"""Of heads alone there is nothing here to add up."""
LAYERS, WIDTH = 12, 768
"""Of BERT-base."""
RANK, SAME_BYTES = 8, 111
"""The second is the rank at which r x r numbers are as many as A and B of rank 8 have."""
POOL = 8
"""Updates that are made; 9 MB of them are more than what a core's own cache holds."""
ROUND = 1


def main(
    updates: Annotated[
        int, typer.Option(min=4, help="Of linear methods; also measured at a half and a quarter.")
    ] = 1000,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of the bare sum and the method.")] = 7,
    few: Annotated[int, typer.Option(min=1, help="Of the other methods; also measured at a tenth.")] = 100,
) -> None:
    """Measure every method and print two tables."""
    linear = [(name, RANK) for name, method in ADAPTED.items() if method.linear] + [("fed-sb", SAME_BYTES)]
    rows: list[list[Any]] = []
    for name, rank in linear:
        announce(f"{name}, rank {rank}")
        rows.append([f"{name}, rank {rank}", *measure_linear(federation_of(name, rank), updates, repeats)])
    columns = ["linear", "update, MB", "peak, MB", "peak / update", "time / bare sum", "least", "most"]
    columns += [f"us an update of {number}" for number in _numbers(updates)]
    print_table(columns, rows)
    rows = []
    for name in [name for name, method in ADAPTED.items() if not method.linear]:
        for number in (max(1, few // 10), few):
            announce(f"{name}, {number} updates")
            rows.append([name, number, *measure(federation_of(name, RANK), number)])
    print_table(["not linear", "updates", "update, MB", "peak, MB", "peak / update", "seconds"], rows)


def measure_linear(federation: Federation, number: int, repeats: int) -> list[float]:
    """Megabytes of an update, peak, their ratio; ratio of times, least, most; microseconds an update, by how many."""
    state = initial_state(federation)
    pool = make_pool(state, federation)
    ratios, each = [], []
    seconds_of(federation, state, pool, number)  # the first is slower
    for _ in range(repeats):
        bare = cpu_seconds(lambda: bare_sum(pool, number))
        ratios.append(seconds_of(federation, state, pool, number) / bare)
    for fewer in _numbers(number):
        best = statistics.median(seconds_of(federation, state, pool, fewer) for _ in range(repeats))
        each.append(1e6 * best / fewer)
    return [
        *memory(federation, state, pool, number),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        *each,
    ]


def measure(federation: Federation, number: int) -> list[float]:
    """Megabytes of an update, peak, their ratio; seconds."""
    state = initial_state(federation)
    pool = make_pool(state, federation)
    return [*memory(federation, state, pool, number), seconds_of(federation, state, pool, number)]


def memory(federation: Federation, state: Arrays, pool: Sequence[Arrays], number: int) -> list[float]:
    """Megabytes of an update, of the peak above the start of an aggregation, and their ratio."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        step(federation, state, incoming(pool, number, copied=True))
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    size = sum(array.nbytes for array in pool[0].values())
    return [size / 1e6, peak / 1e6, peak / size]


def seconds_of(federation: Federation, state: Arrays, pool: Sequence[Arrays], number: int) -> float:
    """CPU seconds of an aggregation."""
    return cpu_seconds(lambda: step(federation, state, incoming(pool, number)))


def step(federation: Federation, state: Arrays, updates: Iterator[ClientUpdate]) -> Arrays:
    """What the coordinator computes of a round's updates."""
    new, *_ = aggregate(state, updates, federation=federation, round=ROUND)
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


def federation_of(method: MethodName, rank: int) -> Federation:
    """An agreement under a method."""
    return Federation.model_validate(
        {
            "name": "benchmark",
            "backbone": {"name": "google-bert/bert-base-uncased", "sha256": "0" * 64},
            "adapter": {"rank": rank, "target_modules": "query,value"},
            "tasks": {"topics": {"type": "text-classification", "labels": ["one", "other"]}},
            "rounds": {"institutions": ["site-0"], "quorum": 1, "method": method},
        }
    )


def initial_state(federation: Federation) -> Arrays:
    """An adapter of BERT-base, at random."""
    rng, rank = np.random.default_rng(13), federation.adapter.rank
    shapes: dict[Factor, tuple[int, int]] = {"A": (rank, WIDTH), "B": (WIDTH, rank)}
    if "R" in federation.method.factors(ROUND):
        shapes["R"] = (rank, rank)
    return {
        factor_name(f"base_model.model.encoder.layer.{layer}.attention.self.{module}", factor): _random(rng, shape)
        for layer in range(LAYERS)
        for module in ("query", "value")
        for factor, shape in shapes.items()
    }


def make_pool(state: Arrays, federation: Federation) -> list[Arrays]:
    """A few updates: what institutions send in the round."""
    rng = np.random.default_rng(14)
    sent = {name: array.shape for name, array in state.items() if is_sent(name, federation.method, ROUND)}
    return [{name: _random(rng, shape) for name, shape in sent.items()} for _ in range(POOL)]


def cpu_seconds(work: Callable[[], object]) -> float:
    """How long a piece of work kept the processor."""
    started = time.process_time()
    work()
    return time.process_time() - started


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return (0.01 * rng.standard_normal(shape)).astype(np.float32)


def _numbers(most: int) -> list[int]:
    return [most // 4, most // 2, most]


if __name__ == "__main__":
    typer.run(main)
