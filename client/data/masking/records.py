"""Texts and records without personal data: fields that a task reads or learns to write, places in them moved along."""

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from client.data.identity import Masked, hash_record
from client.data.masking.finding import Finder, Found
from client.data.masking.surrogates import WORD, Edit, name_for, replacements
from shared.tasks import Record, Task

AT_A_TIME = 256
"""Records that are looked at together."""
SHORTEST = 3
"""Letters of a name that is looked for in all texts of its owner."""
HOLE = re.compile(r"\[MASK\]")
"""A place of a text that a task fills, and nobody's name."""
Place = tuple[str, int]
"""A text of a record: its field, and its number there."""


@dataclass(frozen=True)
class MaskedText:
    """A text without personal data, and how to get from places in it to places in the original and back."""

    text: str
    edits: tuple[Edit, ...]
    """In order, by places of the original."""

    def place(self, at: int, *, end: bool = False) -> int:
        """Where a place of the original is in the masked text; within a replacement its beginning, or its end."""
        shift = 0
        for edit in self.edits:
            if edit.start >= at:
                break
            if at < edit.end:
                return edit.start + shift + (len(edit.text) if end else 0)
            shift += len(edit.text) - (edit.end - edit.start)
        return at + shift

    def original(self, at: int, *, end: bool = False) -> int:
        """Where a place of the masked text is in the original; within a replacement its beginning, or its end."""
        shift = 0
        for edit in self.edits:
            start = edit.start + shift
            if start >= at:
                break
            if at < start + len(edit.text):
                return edit.end if end else edit.start
            shift += len(edit.text) - (edit.end - edit.start)
        return at - shift


def mask_text(
    text: str, found: Sequence[Found], owner: str, key: bytes, names: frozenset[str] = frozenset()
) -> MaskedText:
    """A text without the personal data that were found in it.

    Args:
        text: The text.
        found: What was found, in order, nothing overlapping.
        owner: Whose text it is: the same data of the same owner become the same.
        key: The site's secret; at serving any random bytes.
        names: Words of the owner's names, replaced wherever they stand, found here or not.
    """
    edits = [
        Edit(each.start + edit.start, each.start + edit.end, edit.text)
        for each in found
        for edit in replacements(each.kind, text[each.start : each.end], owner, key)
    ]
    covered = [range(each.start, each.end) for each in found]
    for match in WORD.finditer(text) if names else ():
        stem = _stem(match[0])
        if stem in names and not any(match.start() in span for span in covered):
            edits.append(Edit(match.start(), match.start() + len(stem), name_for(stem, owner, key)))
    holes = [match.span() for match in HOLE.finditer(text)]
    edits = [edit for edit in edits if not any(start <= edit.start and edit.end <= end for start, end in holes)]
    edits.sort(key=lambda edit: edit.start)
    pieces, at = list[str](), 0
    for edit in edits:
        pieces += [text[at : edit.start], edit.text]
        at = edit.end
    return MaskedText("".join([*pieces, text[at:]]), tuple(edits))


def mask_records(
    records: Sequence[Record], owners: Sequence[str], task: Task, find: Finder, key: bytes
) -> list[Record]:
    """The records without personal data in what the task reads or learns to write; labels and other columns stay.

    What each record is, for the ledger and the choice of splits, stays what it was (`client.data.identity.Masked`).
    Arguments are those of `mask_texts`.
    """
    masked = mask_texts(records, owners, task, find, key)
    return [
        Masked(rebuilt(record, task, done), identity=hash_record(record, task))
        for record, done in zip(records, masked, strict=True)
    ]


def mask_texts(
    records: Sequence[Record], owners: Sequence[str], task: Task, find: Finder, key: bytes
) -> list[dict[Place, MaskedText]]:
    """Of each record its texts without personal data, words of a list as one text with spaces between them.

    A word that was found to be a name of an owner's is replaced in all of that owner's texts.

    Args:
        records: Of which `task.check_input` accepts what the model reads.
        owners: Whose each is.
        task: The task.
        find: What finds personal data.
        key: The site's secret.
    """
    texts = [list(_texts(record, task)) for record in records]
    found: list[list[list[Found]]] = []
    for start in range(0, len(texts), AT_A_TIME):
        some = texts[start : start + AT_A_TIME]
        flat = iter(find([text for of_record in some for _, _, text in of_record]))
        found += [[next(flat) for _ in of_record] for of_record in some]
    names = defaultdict[str, set[str]](set)
    for owner, of_record, pieces in zip(owners, texts, found, strict=True):
        for (_, _, text), parts in zip(of_record, pieces, strict=True):
            names[owner].update(_names(text, parts))
    masked = list[dict[Place, MaskedText]]()
    for owner, of_record, pieces in zip(owners, texts, found, strict=True):
        own = frozenset(names[owner])
        masked.append(
            {
                (field, number): mask_text(text, parts, owner, key, own)
                for (field, number, text), parts in zip(of_record, pieces, strict=True)
            }
        )
    return masked


def _texts(record: Record, task: Task) -> Iterator[tuple[str, int, str]]:
    """Field, number and text of all that may hold personal data; words of a list are one text."""
    for field in task.written:
        value = record.get(field)
        if isinstance(value, str):
            yield field, 0, value
        elif isinstance(value, list) and field in task.free_words:
            yield field, 0, " ".join(value)
        elif isinstance(value, list):
            yield from ((field, number, text) for number, text in enumerate(value) if isinstance(text, str))


def _names(text: str, found: Sequence[Found]) -> Iterator[str]:
    for each in found:
        if each.kind == "name":
            for match in WORD.finditer(text[each.start : each.end]):
                if len(stem := _stem(match[0])) >= SHORTEST and stem[0].isupper():
                    yield stem


def rebuilt(record: Record, task: Task, done: Mapping[Place, MaskedText]) -> dict[str, Any]:
    """A record with its masked texts in the place of its own, and its answers where they stand in these."""
    changed = dict(record)
    for (field, number), masked in done.items():
        value = record[field]
        if isinstance(value, str):
            changed[field] = masked.text
        elif field in task.free_words:
            changed[field] = _words(value, masked)
        else:
            changed[field] = [*changed[field][:number], masked.text, *changed[field][number + 1 :]]
    for field, within in task.places.items():
        if field in record and (within, 0) in done:
            changed[field] = [_answer(answer, done[within, 0]) for answer in record[field]]
    return changed


def _words(words: Sequence[str], masked: MaskedText) -> list[str]:
    """A word for each word: no replacement has white space in it, or goes beyond a word."""
    ends = [0]
    for word in words:
        ends.append(ends[-1] + len(word) + 1)
    parts: list[list[str]] = [[] for _ in words]
    at = [0] * len(words)
    for edit in masked.edits:
        number = bisect_right(ends, edit.start) - 1
        start, end = edit.start - ends[number], min(edit.end - ends[number], len(words[number]))
        parts[number] += [words[number][at[number] : start], edit.text]
        at[number] = end
    return ["".join(part) + word[rest:] for word, part, rest in zip(words, parts, at, strict=True)]


def _answer(answer: Mapping[str, Any], masked: MaskedText) -> dict[str, Any]:
    """An answer where it stands in the masked text."""
    start = masked.place(answer["start"])
    end = masked.place(answer["start"] + len(answer["text"]), end=True)
    return {**answer, "start": start, "text": masked.text[start:end]}


def _stem(word: str) -> str:
    return re.sub(r"[\u2019']s$", "", word)
