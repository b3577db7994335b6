"""Annotated documents of an institution, checked and turned into the records of a task."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from client.data.readers.options import Annotations
from shared.errors import shown
from shared.tasks import Record, Task
from shared.tasks.documents import Document, Entity

MARKED = ("text", "entities", "relations", "labels")
"""The fields of a row that are not columns beside."""


def records_of(row: Mapping[str, Any], task: Task, how: Annotations) -> list[Record]:
    """The records that a row gives whose reader reads documents.

    Args:
        row: Its `text`, and what is marked.
        task: Whose records are made.
        how: What is passed over, and what becomes of overlaps.

    Raises:
        ValueError: There is no text, an entity does not stand where it says, or the task cannot say what is marked.
    """
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"expected text in 'text', but {shown(text, 60)} came")
    kept = [entity for entity in row.get("entities", ()) if entity.label not in how.skip]
    left = {entity.id for entity in row.get("entities", ()) if entity.label in how.skip}
    relations = [r for r in row.get("relations", ()) if r.label not in how.skip and not {r.head, r.tail} & left]
    return task.records_of(
        Document(
            text,
            [placed(entity, text) for entity in kept],
            relations,
            row.get("labels", ()),
            {name: value for name, value in row.items() if name not in MARKED},
            longest=how.overlaps == "longest",
        )
    )


def placed(entity: Entity, text: str) -> Entity:
    """The entity where it stands in the text.

    Tools in a browser count a character beyond the basic plane, such as an emoji, as two: where what stands at the
    given place is not what the tool says, but is so counted, the place is corrected.

    Raises:
        ValueError: It stands nowhere, or something else stands there.
    """
    if _stands(entity, text):
        return entity
    if entity.text is not None and (in_units := _in_characters(entity, text)) and _stands(in_units, text):
        return in_units
    if not 0 <= entity.start < entity.end <= len(text):
        raise ValueError(
            f"expected {entity.label} within the {len(text)} characters of the text, but [{entity.start}, {entity.end})"
            " came"
        )
    there = text[entity.start : entity.end]
    raise ValueError(
        f"expected {entity.label} {shown(entity.text, 30)} at character {entity.start}, but {shown(there, 30)} stands "
        "there"
    )


def _stands(entity: Entity, text: str) -> bool:
    if not 0 <= entity.start < entity.end <= len(text):
        return False
    return entity.text is None or entity.text.split() == text[entity.start : entity.end].split()


def _in_characters(entity: Entity, text: str) -> Entity | None:
    """The entity, whose places count units of UTF-16, by characters."""
    units = text.encode("utf-16-le", errors="surrogatepass")
    try:
        start, end = (len(units[: 2 * edge].decode("utf-16-le")) for edge in (entity.start, entity.end))
    except UnicodeDecodeError:
        return None
    return replace(entity, start=start, end=end)
