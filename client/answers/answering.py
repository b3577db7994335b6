"""From what somebody gives to answers: a text or a record, for one task or for all that can read it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from client.answers.masking import Masking, Texts, in_given, mask_asked, once
from client.data.masking.records import rebuilt
from shared.errors import ConfigError, listed
from shared.inference.model import ReleasedModel
from shared.tasks import Example, Record, Task

SECONDS = ("text_pair", "question", "second")
"""Where what goes with a `text` may stand: the other text of a pair, a question."""


@dataclass(frozen=True)
class Asked:
    """Records of one task as model input."""

    task: str
    places: tuple[int, ...]
    """Of each record, its place among what was given."""
    records: tuple[Record, ...]
    """As given."""
    examples: tuple[Example, ...]
    """Of the records, or of what masking left of them."""
    masked: tuple[Texts, ...] | None = None
    """Of each record, what its texts became."""


@dataclass(frozen=True)
class Question:
    """All that is asked at once."""

    size: int
    """How much was given."""
    asked: tuple[Asked, ...]
    wrong: Mapping[int, str]
    """By its place, why something given cannot be read."""

    @property
    def examples(self) -> list[Example]:
        """Of all tasks."""
        return [example for asked in self.asked for example in asked.examples]


def check_tasks(model: ReleasedModel, names: Sequence[str]) -> None:
    """Raise ConfigError unless the bundle has these tasks."""
    if unknown := sorted(set(names) - set(model.tasks)):
        raise ConfigError(f"Expected a task among {listed(sorted(model.tasks))}, but {listed(unknown)} came.")


def record_of(given: Any, task: Task) -> Record:
    """What a task reads of a text or a record, without labels and null fields.

    A record may be the task's own, or hold a `text`, and in one of `SECONDS` what goes with it, for any task.

    Raises:
        ValueError: The task cannot read it.
    """
    if isinstance(given, str):
        record = task.from_text(given)
    elif not isinstance(given, Mapping):
        raise ValueError(f"expected a text or a record, but a {type(given).__name__} came")
    elif isinstance(given.get("text"), str) and "tokens" not in given:
        second = next((given[name] for name in SECONDS if isinstance(given.get(name), str)), None)
        record = task.from_text(given["text"], second)
    else:
        record = given
    kept = {key: value for key, value in record.items() if value is not None and key not in task.targets}
    task.check_input(kept)
    return kept


def question_of(
    model: ReleasedModel, names: Sequence[str], given: Sequence[Any], *, strict: bool, masking: Masking | None = None
) -> Question:
    """Model input of all that was given.

    Args:
        model: Whose tasks are asked.
        names: The tasks.
        given: Texts and records.
        strict: Whether each task must be able to read all; otherwise one is enough.
        masking: Replaces personal data before the model reads anything.
    """
    if masking:
        masking = replace(masking, find=once(masking.find))
    wrong: dict[int, str] = {}
    readable: dict[str, list[tuple[int, Record]]] = {name: [] for name in names}
    for place, one in enumerate(given):
        reasons = []
        for name, records in readable.items():
            try:
                records.append((place, record_of(one, model.tasks[name])))
            except ValueError as error:
                reasons.append(str(error))
        if reasons and (strict or len(reasons) == len(readable)):
            wrong[place] = reasons[0]
    asked = tuple(_asked(model, name, records, masking) for name, records in readable.items())
    return Question(len(given), asked, wrong)


def answers_of(model: ReleasedModel, question: Question, logits: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """By the place of what was given, the answers of the tasks that read it; `logits` as the question's examples."""
    rows: list[dict[str, Any]] = [{} for _ in range(question.size)]
    first = 0
    for asked in question.asked:
        own = logits[first : first + len(asked.examples)]
        first += len(asked.examples)
        task = model.tasks[asked.task]
        found = task.answer(asked.records, asked.examples, own)
        for number, place in enumerate(asked.places):
            answer = found[number]
            if asked.masked is not None:
                answer = in_given(answer, asked.records[number], task, asked.masked[number])
            rows[place][asked.task] = answer
    return rows


def logits_of(question: Question, logits: Sequence[np.ndarray]) -> list[dict[str, list[Any]]]:
    """As `answers_of`, what each task's head said of every window."""
    rows: list[dict[str, list[Any]]] = [{} for _ in range(question.size)]
    own = iter(logits)
    for asked in question.asked:
        for example in asked.examples:
            rows[asked.places[example.record]].setdefault(asked.task, []).append(next(own).tolist())
    return rows


def _asked(model: ReleasedModel, name: str, records: Sequence[tuple[int, Record]], masking: Masking | None) -> Asked:
    places, own = tuple(place for place, _ in records), tuple(record for _, record in records)
    if masking is None:
        return Asked(name, places, own, tuple(model.examples(name, own)))
    task = model.tasks[name]
    masked = tuple(mask_asked(own, task, masking))
    read = [rebuilt(record, task, done) for record, done in zip(own, masked, strict=True)]
    return Asked(name, places, own, tuple(model.examples(name, read)), masked)
