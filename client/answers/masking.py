"""Requests without personal data: masked as before training, and answered in terms of the text that was given."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client.data.identity import owner_of
from client.data.masking.finding import Finder, Found, open_finder
from client.data.masking.options import Mask
from client.data.masking.records import MaskedText, Place, mask_texts
from shared.config import parse, read_toml
from shared.tasks import Record, Task

Texts = Mapping[Place, MaskedText]
"""A record's texts without personal data."""


@dataclass(frozen=True)
class Masking:
    """How requests are masked; a text is masked alike as long as this is there."""

    find: Finder
    key: bytes = field(default_factory=lambda: os.urandom(32), repr=False)
    """Decides what stands in the place of what; kept nowhere."""


def open_masking(file: Path) -> Masking:
    """What a file says, which has the keys of `[data.TASK.mask]`; paths in it are relative to it.

    Raises:
        ConfigError: The file cannot be read, presidio is missing, or the model is not the one that is named.
    """
    from client.institution import with_absolute_paths

    mask = parse(Mask, read_toml(file), where=str(file))
    return Masking(open_finder(with_absolute_paths(mask, file.resolve().parent)))


def once(find: Finder) -> Finder:
    """Looks at each text once, for several tasks may read the same."""
    known: dict[str, list[Found]] = {}

    def look(texts: Iterable[str]) -> Iterable[list[Found]]:
        asked = list(texts)
        new = [text for text in dict.fromkeys(asked) if text not in known]
        known.update(zip(new, find(new) if new else (), strict=True))
        return [known[text] for text in asked]

    return look


def mask_asked(records: Sequence[Record], task: Task, masking: Masking) -> list[dict[Place, MaskedText]]:
    """Of each record, which is an owner of its own, the texts that `task` is to read."""
    return mask_texts(records, [owner_of(record, task, None) for record in records], task, masking.find, masking.key)


def in_given(answer: Any, record: Record, task: Task, done: Texts) -> Any:
    """An answer that is a piece of a masked text as the piece of the text that was given; any other as it is."""
    for within in task.places.values():
        text = done[within, 0]
        start, end = text.original(answer["start"]), text.original(answer["end"], end=True)
        answer = {**answer, "start": start, "end": end, "answer": record[within][start:end]}
    return answer
