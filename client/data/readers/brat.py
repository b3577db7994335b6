"""brat's standoff: a .txt with the text, and beside it an .ann with what is marked in it."""

from pathlib import Path
from typing import Any

from client.data.readers.base import BadRow, Rows, Source, not_text, open_text
from client.data.readers.folder import TEXT, files_of
from shared.errors import DataError
from shared.tasks.documents import Entity, Relation

PASSED_OVER = "EAMN#*"
"""First letters of lines that mark neither an entity nor a relation: events, attributes, notes and the like."""


def read(source: Source) -> Rows:
    """A document for each text of a folder; place is its .ann, and the line there.

    Columns beside are `file`, and `folder`, in which it lies. An entity of several pieces goes from the first one's
    beginning to the last one's end.
    """
    texts = [file for file in files_of(source.path, "a folder of brat") if file.suffix.lower() == TEXT]
    if not texts:
        raise DataError(f"Expected texts (.txt) with their annotations (.ann) in {source.path}, but there is no text.")
    for file in texts:
        yield from _document(file, source)


def _document(file: Path, source: Source) -> Rows:
    annotations = file.with_suffix(".ann")
    name = str(annotations.relative_to(source.path))
    if not annotations.is_file():
        yield name, BadRow("expected the annotations of a text, an empty file if there are none, but there is no file")
        return
    with open_text(file, source.how.encoding) as stream:
        text = stream.read()
    with open_text(annotations, source.how.encoding) as stream:
        lines = [line.rstrip("\r") for line in stream.read().split("\n")]  # a text may hold other ends of lines
    if wrong := not_text(text, source.how.encoding):
        yield str(file.relative_to(source.path)), wrong
        return
    entities, relations, bad = list[Entity](), list[Relation](), False
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line[0] in PASSED_OVER:
            continue
        found = not_text(line, source.how.encoding) or _mark(line)
        if isinstance(found, Entity):
            entities.append(found)
        elif isinstance(found, Relation):
            relations.append(found)
        else:
            bad = True
            yield f"{name}, line {number}", found
    if not bad:
        place = file.relative_to(source.path)
        beside: dict[str, Any] = {"file": str(place), "folder": str(place.parent)}
        yield name, {**beside, "text": text, "entities": entities, "relations": relations}


def _mark(line: str) -> Entity | Relation | BadRow:
    """What a line marks: `T1<tab>Drug 0 7<tab>Aspirin`, or `R1<tab>Treats Arg1:T1 Arg2:T2`."""
    name, _, rest = line.partition("\t")
    said, _, text = rest.partition("\t")
    label, *parts = said.replace(";", " ").split() or [""]
    if name[:1] == "T":
        if not label or len(parts) < 2 or len(parts) % 2 or not all(part.isdecimal() for part in parts):
            return BadRow(
                "expected an entity such as T1, a tab, 'Drug 0 7', a tab and its text, but something else came"
            )
        whole = text if len(parts) == 2 else None
        return Entity(label, int(parts[0]), int(parts[-1]), id=name, text=whole)
    if name[:1] == "R":
        ends = [part.partition(":")[2] for part in parts]
        if not label or len(ends) != 2 or not all(ends):
            return BadRow("expected a relation such as R1, a tab and 'Treats Arg1:T1 Arg2:T2', but another line came")
        return Relation(label, *ends)
    return BadRow(f"expected a line that begins with T, R or one of {', '.join(PASSED_OVER)}, but {name[:10]!r} came")
