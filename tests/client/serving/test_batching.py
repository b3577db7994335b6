"""Batches: full, of like lengths, and nobody starves."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.serving.batching import Batcher, Job, choose
from shared.tasks import Example


@dataclass(frozen=True)
class Echo:
    """A model that says how long each row is, and notes its batches."""

    batches: list[list[int]]
    wrong: int = -1

    def infer(self, examples: list[Example], batch_tokens: int) -> list[np.ndarray]:
        self.batches.append([len(example) for example in examples])
        if self.wrong in self.batches[-1]:
            raise ValueError("a row that cannot be computed")
        return [np.array(len(example)) for example in examples]

    def __hash__(self) -> int:
        return id(self)


def row(length: int) -> Example:
    return Example("t", 0, [0] * length, [0] * length, {})


def job(model: Any, *lengths: int) -> Job:
    return Job(model, [row(length) for length in lengths], 0.0, None, None)  # type: ignore[arg-type]


@given(st.lists(st.lists(st.integers(1, 200), min_size=1, max_size=4), min_size=1, max_size=8), st.integers(8, 600))
def test_a_batch_has_the_oldest_row_and_those_nearest_to_it(lengths: list[list[int]], budget: int) -> None:
    models = [Echo([]), Echo([])]
    jobs = [job(models[number % 2], *own) for number, own in enumerate(lengths)]
    waiting = [(one, number) for one in jobs for number in range(len(one.examples))]
    batch = choose(waiting, budget)
    assert batch[0] == waiting[0]
    assert {id(one.model) for one, _ in batch} == {id(models[0])}
    sizes = [len(one.examples[number]) for one, number in batch]
    assert len(batch) == 1 or sum(-(-size // 8) * 8 for size in sizes) <= budget
    left = [len(o.examples[n]) for o, n in waiting if id(o.model) == id(models[0]) and (o, n) not in batch]
    assert all(abs(other - sizes[0]) >= abs(size - sizes[0]) for size in sizes for other in left)
    assert choose([], budget) == []


def run(model: Any, *asked: tuple[int, ...], seconds: float = 5.0) -> list[Any]:
    """What each request of so many lengths is answered."""
    batcher = Batcher(100, 64)

    async def everybody() -> list[Any]:
        tasks = [
            asyncio.ensure_future(batcher.infer(model, [row(length) for length in own], time.monotonic() + seconds))
            for own in asked
        ]
        await asyncio.sleep(0)  # all have come before the first batch
        batcher.start()
        found: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
        return found

    found = asyncio.run(everybody())
    batcher.close()
    return [[int(one) for one in own] if isinstance(own, list) else type(own) for own in found]


def test_requests_pass_together_and_each_gets_its_own() -> None:
    model = Echo([])
    assert run(model, (8, 40), (8,), (40, 8)) == [[8, 40], [8], [40, 8]]
    assert model.batches == [[8, 8, 8, 40], [40]]


def test_one_that_fails_takes_no_other_with_it() -> None:
    assert run(Echo([], wrong=9), (8,), (9,), (8, 8)) == [[8], ValueError, [8, 8]]


def test_what_nobody_waits_for_is_not_computed() -> None:
    model = Echo([])
    assert run(model, (8,), seconds=-1.0) == [TimeoutError]
    assert model.batches == []


def test_what_waits_is_computed_before_the_end() -> None:
    batcher, model = Batcher(10, 64), Echo([])

    async def ask() -> list[np.ndarray]:
        task = asyncio.ensure_future(batcher.infer(model, [row(8)], time.monotonic() + 5))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        batcher.start()
        await asyncio.to_thread(batcher.close)
        return await task

    assert len(asyncio.run(ask())) == 1
    assert not batcher.alive


def test_no_rows_are_answered_at_once() -> None:
    batcher = Batcher(10, 64)
    assert asyncio.run(batcher.infer(Echo([]), [], 0.0)) == []  # type: ignore[arg-type]
    assert pytest.approx(batcher.waiting) == 0
