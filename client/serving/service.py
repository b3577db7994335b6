"""What a server does, whatever speaks HTTP before it: answer, tell, reload."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from client.answers.answering import Question, answers_of, question_of
from client.answers.masking import Masking, open_masking
from client.serving.asking import Given, RefusedError, without_values
from client.serving.batching import Batcher, FullError
from client.serving.metrics import Metrics
from client.serving.models import Served, load
from client.serving.settings import Settings
from client.serving.tokens import Doorkeeper
from shared.errors import CollegiumError, plain
from shared.inference.model import ReleasedModel

log = logging.getLogger("collegium.serving")
Tasks = Mapping[str, Served]


class Service:
    """The tasks that are served now, and the queue before them.

    Args:
        settings: What is served, and how much.
        tasks: Loaded already; otherwise they are loaded here.

    Raises:
        CollegiumError: A bundle, the tokens or the mask cannot be read.
    """

    def __init__(self, settings: Settings, tasks: Tasks | None = None) -> None:
        self.settings = settings
        self.tasks: Tasks = load(settings) if tasks is None else tasks
        self.doorkeeper = Doorkeeper(settings.tokens, 1 / settings.workers)
        self._masking = None if settings.mask is None else open_masking(settings.mask)
        self._batcher = Batcher(settings.queue, settings.batch_tokens, lambda *found: self.metrics.batch(*found))
        self.metrics = Metrics(lambda: self._batcher.waiting, settings.folder)
        self._reading = ThreadPoolExecutor(1, "tokenizer")
        self._reloading = asyncio.Lock()

    def start(self) -> None:
        """Begin to compute."""
        import torch

        torch.set_num_threads(self.settings.threads)
        self._batcher.start()

    def close(self) -> None:
        """Answer what waits, then stop."""
        self._batcher.close()
        self._reading.shutdown()

    @property
    def healthy(self) -> bool:
        """Whether it can answer."""
        return self._batcher.alive

    async def answer(self, names: Sequence[str], given: Given, seconds: float) -> list[dict[str, Any]]:
        """The answers to each input, by task.

        Args:
            names: Of tasks; none means all that can read an input.
            given: The inputs.
            seconds: Until nobody waits for them any more.

        Raises:
            RefusedError: An input cannot be read, there is no room, or it took too long.
        """
        ends, groups = time.monotonic() + seconds, self._groups(names or list(self.tasks))
        loop = asyncio.get_running_loop()
        rows: list[dict[str, Any]] = [{} for _ in given.inputs]
        strict = bool(names)
        read = [
            (
                model,
                own,
                await loop.run_in_executor(
                    self._reading, partial(_read, model, own, given.inputs, bool(names), self._masking)
                ),
            )
            for model, own in groups
        ]
        for place in range(len(rows)):
            reasons = [question.wrong[place] for _, _, question in read if place in question.wrong]
            if reasons and (strict or len(reasons) == len(read)):
                why = without_values(reasons[0]) if strict else "none of the tasks can read it"
                raise RefusedError(422, f"Input {place}: {why}.")
        try:
            async with asyncio.TaskGroup() as group:
                found = [
                    group.create_task(self._batcher.infer(model, question.examples, ends))
                    for model, _, question in read
                ]
        except* FullError as full:
            first: Any = full.exceptions[0]
            headers = {"retry-after": str(first.seconds)}
            raise RefusedError(503, "Too much is waiting already; try again later.", headers) from None
        except* TimeoutError:
            raise RefusedError(504, f"No answer within {seconds:g} seconds.") from None
        for (model, own, question), logits in zip(read, found, strict=True):
            for row, answers in zip(rows, answers_of(model, question, logits.result()), strict=True):
                row |= {own[task]: answer for task, answer in answers.items()}
        return rows

    async def reload(self) -> str | None:
        """Read the bundles again; requests that have come are answered by what they came to. What failed, if it did."""
        async with self._reloading:
            loop = asyncio.get_running_loop()
            try:
                tasks = await loop.run_in_executor(None, load, self.settings)
                keeper = Doorkeeper(self.settings.tokens, 1 / self.settings.workers)
            except (CollegiumError, OSError) as error:
                self.metrics.reloads.labels("failed").inc()
                log.error("the bundles could not be read again, so that the old ones stay: %s", plain(str(error)))
                return plain(str(error))
            self.tasks, self.doorkeeper = tasks, keeper
        self.metrics.reloads.labels("done").inc()
        log.info("the bundles have been read again: %s", ", ".join(tasks))
        return None

    def _groups(self, names: Sequence[str]) -> list[tuple[ReleasedModel, dict[str, str]]]:
        """By model, its tasks and the names under which they are served."""
        groups: dict[int, tuple[ReleasedModel, dict[str, str]]] = {}
        for name in names:
            served = self.tasks[name]
            groups.setdefault(id(served.model), (served.model, {}))[1][served.task] = name
        return list(groups.values())


def _read(
    model: ReleasedModel, own: Mapping[str, str], inputs: Sequence[Any], named: bool, masking: Masking | None
) -> Question:
    """Model input of all inputs; of all tasks, those that cannot read one are left out of it."""
    return question_of(model, list(own), inputs, strict=named, masking=masking)
