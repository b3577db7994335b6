"""Rows of many requests that pass the encoder together: a bounded queue, and one thread that computes.

Nothing waits for company: whatever has come while a batch was computed is the next one. The row that has waited longest
is in it, and beside it those of the same model whose lengths are nearest, so that little is padded and nobody starves.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared.inference.model import ReleasedModel
from shared.model.packed import PAD_MULTIPLE
from shared.tasks import Example

log = logging.getLogger("collegium.serving")
SMOOTH = 0.2
"""Weight of the last batch in the rate that is told to who must wait."""


class FullError(Exception):
    """No room in the queue; `seconds` until there may be."""

    def __init__(self, seconds: int) -> None:
        super().__init__()
        self.seconds = seconds


@dataclass(eq=False)
class Job:
    """A request's rows under one model."""

    model: ReleasedModel
    examples: Sequence[Example]
    ends: float
    """On the monotonic clock: an answer after it is nobody's to read."""
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[list[np.ndarray]]
    found: dict[int, np.ndarray] = field(default_factory=dict)
    came: float = field(default_factory=time.monotonic)

    def end(self, error: BaseException | None = None) -> None:
        """Hand over what was found, or why there is nothing; from any thread."""

        def tell() -> None:
            if self.future.done():
                return
            if error is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result([self.found[number] for number in range(len(self.examples))])

        self.loop.call_soon_threadsafe(tell)


Row = tuple[Job, int]
"""A job, and which of its examples."""


class Batcher:
    """The queue and the thread that empties it.

    Args:
        most: Rows that may wait.
        batch_tokens: Most padded sub-tokens of a batch.
        told: Called after each batch with its rows, its sub-tokens and the seconds that it took.
    """

    def __init__(self, most: int, batch_tokens: int, told: Callable[[int, int, float], Any] = lambda *_: None) -> None:
        self.most, self._batch_tokens, self._told = most, batch_tokens, told
        self._waiting: list[Row] = []
        self._changed = threading.Condition()
        self._rate = 1000.0  # sub-tokens a second, until the first batch
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    def close(self) -> None:
        """Compute what waits, then stop."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def waiting(self) -> int:
        """Rows that wait."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether somebody computes."""
        return self._thread.is_alive()

    async def infer(self, model: ReleasedModel, examples: Sequence[Example], ends: float) -> list[np.ndarray]:
        """As `ReleasedModel.infer`, in company.

        Args:
            model: The model.
            examples: Its rows.
            ends: The deadline, on the monotonic clock.

        Raises:
            FullError: There is no room.
            TimeoutError: The deadline has passed.
        """
        if not examples:
            return []
        loop = asyncio.get_running_loop()
        job = Job(model, examples, ends, loop, loop.create_future())
        with self._changed:
            if len(self._waiting) + len(examples) > self.most:
                raise FullError(self._seconds())
            self._waiting += [(job, number) for number in range(len(examples))]
            self._changed.notify()
        try:
            async with asyncio.timeout(max(0.0, ends - time.monotonic())):
                return await job.future
        finally:
            job.future.cancel()  # of whoever has gone, nothing is computed any more

    def _seconds(self) -> int:
        """Until what waits has been computed, at least one."""
        tokens = sum(_padded(len(job.examples[number])) for job, number in self._waiting)
        return max(1, math.ceil(tokens / self._rate))

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._ending:
                    self._changed.wait()
                self._waiting = [row for row in self._waiting if not _given_up(row[0])]
                batch = choose(self._waiting, self._batch_tokens)
                taken = set(map(id, batch))
                self._waiting = [row for row in self._waiting if id(row) not in taken]
                if not batch and self._ending:
                    return
            if batch:
                self._compute(batch)

    def _compute(self, batch: list[Row]) -> None:
        started = time.monotonic()
        examples = [job.examples[number] for job, number in batch]
        try:
            found = batch[0][0].model.infer(examples, self._batch_tokens)
        except Exception as error:  # one text must not take the others with it
            jobs = list(dict.fromkeys(job for job, _ in batch))
            if len(jobs) > 1:
                for one in jobs:
                    self._compute([row for row in batch if row[0] is one])
                return
            log.error("a batch of %d rows could not be computed: %s", len(batch), type(error).__name__)
            return jobs[0].end(error)
        for (job, number), own in zip(batch, found, strict=True):
            job.found[number] = own
            if len(job.found) == len(job.examples):
                job.end()
        tokens, seconds = sum(_padded(len(example)) for example in examples), time.monotonic() - started
        self._rate += SMOOTH * (tokens / max(seconds, 1e-6) - self._rate)
        self._told(len(batch), tokens, seconds)


def choose(waiting: Sequence[Row], batch_tokens: int) -> list[Row]:
    """The next batch: the first row, and those of its model nearest to it in length while there is room.

    Args:
        waiting: In the order in which they came.
        batch_tokens: Most padded sub-tokens; a single longer row is a batch.
    """
    if not waiting:
        return []
    first = waiting[0]
    length = len(first[0].examples[first[1]])
    others = sorted(
        (row for row in waiting[1:] if row[0].model is first[0].model),
        key=lambda row: abs(len(row[0].examples[row[1]]) - length),
    )
    batch, tokens = [first], _padded(length)
    for row in others:
        tokens += _padded(len(row[0].examples[row[1]]))
        if tokens > batch_tokens:
            break
        batch.append(row)
    return batch


def _given_up(job: Job) -> bool:
    return job.future.done() or time.monotonic() > job.ends


def _padded(length: int) -> int:
    return -(-length // PAD_MULTIPLE) * PAD_MULTIPLE
