"""doccano's exports: JSON Lines, or one array, of texts with spans, spans with relations, or labels of the whole."""

from collections.abc import Mapping
from typing import Any

from client.data.readers import json_array, json_lines
from client.data.readers.base import BadRow, Rows, Source, open_text
from shared.tasks.documents import Entity, Relation

OWN = ("label", "labels", "cats", "entities", "relations", "meta")
"""Keys that are not columns."""


def read(source: Source) -> Rows:
    """A document for each text; place is its line."""
    with open_text(source.path, source.how.encoding) as stream:
        array = stream.read(1) == "["
    for place, row in (json_array if array else json_lines).read(source):
        yield place, row if isinstance(row, BadRow) else _document(row)


def _document(row: dict[str, Any]) -> dict[str, Any] | BadRow:
    meta = row.get("meta")
    beside = {name: value for name, value in row.items() if name not in OWN}
    beside |= meta if isinstance(meta, Mapping) else {}
    try:
        if "entities" in row:
            entities = [
                Entity(str(each["label"]), int(each["start_offset"]), int(each["end_offset"]), str(each["id"]))
                for each in row["entities"]
            ]
            relations = [
                Relation(str(each["type"]), str(each["from_id"]), str(each["to_id"]))
                for each in row.get("relations", ())
            ]
            return {**beside, "entities": entities, "relations": relations}
        marks: Any = next((row[name] for name in ("label", "labels", "cats") if name in row), [])
        marks = marks if isinstance(marks, list) else [marks]
        if any(isinstance(mark, list) for mark in marks):
            entities = [Entity(str(kind), int(begin), int(end), str(n)) for n, (begin, end, kind) in enumerate(marks)]
            return {**beside, "entities": entities, "labels": []}
        return {**beside, "entities": [], "labels": [str(mark) for mark in marks]}
    except (KeyError, TypeError, ValueError):
        return BadRow(
            "expected an export of doccano: 'label' as [[start, end, label], ...] or a list of labels, or 'entities' "
            "with label, start_offset and end_offset, but something else came"
        )
