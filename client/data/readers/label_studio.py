"""Label Studio's export as JSON, or JSON_MIN: tasks with what annotators marked in their texts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from client.data.readers import json_array
from client.data.readers.base import BadRow, Rows, Source
from shared.tasks.documents import Entity, Relation


def read(source: Source) -> Rows:
    """A document for each task; place is its line.

    What a task's `data` holds are columns. Of several annotations the one marked as ground truth counts, or else the
    one changed last; those that were cancelled count as little as a task without any.
    """
    for place, row in json_array.read(source):
        if isinstance(row, BadRow):
            yield place, row
            continue
        try:
            yield from ((place, document) for document in _documents(row))
        except (KeyError, TypeError, ValueError, AttributeError):
            yield place, BadRow("expected a task as Label Studio exports it, but it has another form")


def _documents(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The document of a task, if anybody has annotated it."""
    if "annotations" not in task:
        yield _minimal(task)
        return
    done = [each for each in task["annotations"] if not each.get("was_cancelled")]
    if not done:
        return
    chosen = max(done, key=lambda each: (bool(each.get("ground_truth")), str(each.get("updated_at", ""))))
    entities, relations, labels = list[Entity](), list[Relation](), list[str]()
    for mark in chosen["result"]:
        if mark["type"] == "relation":
            ends = mark["from_id"], mark["to_id"]
            head, tail = reversed(ends) if mark.get("direction") == "left" else ends
            relations += [Relation(label, head, tail) for label in mark.get("labels") or ["relation"]]
        elif "start" in mark["value"] and "end" in mark["value"]:
            entities += _entities(mark["value"], mark.get("id", ""))
        else:
            labels += mark["value"].get("choices", ())
    yield {**task["data"], "entities": entities, "relations": relations, "labels": labels}


def _minimal(task: Mapping[str, Any]) -> dict[str, Any]:
    """Of JSON_MIN, in which marks stand beside the data under the names of their controls."""
    beside, entities, labels = dict[str, Any](), list[Entity](), list[str]()
    for name, value in task.items():
        if isinstance(value, list) and value and all(isinstance(each, Mapping) and "start" in each for each in value):
            for number, each in enumerate(value):
                entities += _entities(each, f"{name} {number}")
        elif isinstance(value, Mapping) and "choices" in value:
            labels += value["choices"]
        else:
            beside[name] = value
    return {**beside, "entities": entities, "labels": labels}


def _entities(value: Mapping[str, Any], name: str) -> Sequence[Entity]:
    """What is marked, once for each of its labels."""
    kinds: Sequence[str] = next((value[key] for key in ("labels", "hypertextlabels") if key in value), [])
    return [Entity(kind, int(value["start"]), int(value["end"]), name, value.get("text")) for kind in kinds]
