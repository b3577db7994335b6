"""Guessing what a file holds: its format, its columns, the task that it fits, and the `[data]` table that reads it."""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.data.readers import READERS
from client.data.readers.delimited import OTHER_DELIMITERS
from client.data.readers.options import ASKED, Reading, format_of
from client.data.sources import BadRow, Place, scan_rows
from shared.errors import DataError, plain
from shared.process.console import print_table

LOOKED_AT = 200
"""Rows that guesses rest on."""
HEAD = 1 << 16
"""Bytes of a file that tell its format."""
SHOWN, WIDEST = 3, 60
TAGS = re.compile(r"(O|[BIESLU]-\S+)")
FIELDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "token-classification": {"tokens": ("words",), "tags": ("ner_tags", "labels", "ner")},
    "relation-extraction": {"tokens": ("words",), "head": (), "tail": (), "label": ("relation",)},
    "question-answering": {"context": ("passage",), "question": ("query",), "answers": ("answer",)},
    "text-pair-classification": {
        "text_a": ("premise", "sentence1", "text1", "question1"),
        "text_b": ("hypothesis", "sentence2", "text2", "question2"),
        "label": ("gold_label", "class"),
    },
    "extractive-summarization": {"sentences": (), "summary": ("highlights",)},
    "text-generation": {"source": ("input", "document"), "target": ("output",)},
    "text-classification": {
        "text": ("note_text", "sentence", "content", "body", "note", "document", "abstract"),
        "label": ("labels", "class", "category", "code", "sentiment", "topic"),
    },
}
"""By type of task the fields of its records, and what else they are often called; the first that fits is meant."""
OWNERS = re.compile(
    r"(patient|person|subject|client|customer|account|author|user|case)([_ .-]?(id|no|number)\.?)?", re.I
)


@dataclass(frozen=True)
class Inspected:
    """What a file seems to hold."""

    path: Path
    kind: str
    """Of `READERS`."""
    task: str | None
    """The type of task; None if none fits."""
    table: Mapping[str, Any]
    """The keys of `[data.TASK]`."""
    rows: Sequence[tuple[Place, Mapping[str, Any]]]
    """The first ones."""
    bad: Sequence[tuple[Place, str]]
    """Of those looked at, where they stand, and what is wrong."""


def inspect(path: Path) -> Inspected:
    """Look at the beginning of a file, or of a folder.

    Raises:
        DataError: There is nothing, or nothing that any reader reads.
    """
    if not path.exists():
        raise DataError(f"Expected a file or a folder at {path}, but there is none; check the path.")
    table: dict[str, Any] = {"train": str(path)}
    kind = kind_of(path)
    if kind in ASKED:
        raise DataError(f"Expected records, but {path} is a query; write its table by docs/data.md, then run `doctor`.")
    if format_of(path) != kind:
        table["format"] = kind
    table |= _text_options(path, kind) if path.is_file() else {}
    how = Reading.model_validate({name: value for name, value in table.items() if name != "train"})
    found = list(itertools.islice(scan_rows(path, how=how), LOOKED_AT))
    rows = [(place, row) for place, row in found if not isinstance(row, BadRow)]
    columns = {name: row[name] for _, row in reversed(rows) for name in row}
    task = _of_documents(rows) if READERS[kind].documents else None
    if not READERS[kind].documents:
        task, names = _fit(columns)
        table |= {"columns": names} if names else {}
    if owner := next((name for name in columns if OWNERS.fullmatch(name)), None):
        table["group_by"] = owner
    if task == "token-classification" and (scheme := _scheme(rows, table)):
        table["scheme"] = scheme
    return Inspected(
        path, kind, task, table, rows[:SHOWN], [(p, row.what) for p, row in found if isinstance(row, BadRow)]
    )


def kind_of(path: Path) -> str:
    """What a file or a folder is, by what is in it, and by its name; DataError if that says nothing."""
    if path.is_dir():
        names = {file.suffix.lower() for file in path.rglob("*") if file.is_file()}
        if (path / "state.json").is_file() or (path / "dataset_info.json").is_file() or ".arrow" in names:
            return "datasets"
        return "brat" if ".ann" in names else "inception" if ".xmi" in names else "folder"
    with path.open("rb") as stream:
        head = stream.read(HEAD).decode("utf-8", errors="replace").lstrip("\ufeff \n\r\t")
    known = format_of(path)
    if known == "json" or (known is None and head.startswith(("[", "{"))):
        if head.startswith("{"):
            return "squad" if '"paragraphs"' in head else "inception" if '"%TYPES"' in head else "jsonl"
        return "label-studio" if '"annotations"' in head and '"data"' in head else "json"
    if known == "jsonl" and head.startswith("{"):
        return "doccano" if _is_doccano(head.split("\n", 1)[0]) else "jsonl"
    if known is None and path.suffix.lower() in (".xmi", ".zip"):
        return "inception"
    if known is None and _has_tags(head):
        return "conll"
    if known is None:
        raise DataError(f"Expected a file that tells what it is, but {path} does not; see the table in docs/data.md.")
    return known


def _is_doccano(line: str) -> bool:
    try:
        first = json.loads(line)
    except ValueError:
        return False
    marks = first.get("label", first.get("labels"))
    spans = isinstance(marks, list) and bool(marks) and isinstance(marks[0], list) and len(marks[0]) == 3
    return "text" in first and "tokens" not in first and (spans or '"start_offset"' in line)


def _has_tags(head: str) -> bool:
    lines = [line.split() for line in head.splitlines()[:50] if line.strip() and not line.startswith("#")]
    return bool(lines) and all(len(line) > 1 and TAGS.fullmatch(line[-1]) for line in lines[:-1] or lines)


def _text_options(path: Path, kind: str) -> dict[str, Any]:
    """Encoding and delimiter, where they are not the usual ones."""
    if kind == "parquet" or path.suffix in (".gz", ".zip", ".xmi"):
        return {}
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    options: dict[str, Any] = {}
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        options["encoding"] = "utf-16"
    else:
        try:
            head.decode()
        except UnicodeDecodeError as error:
            if error.start < len(head) - 4:  # not just a character that was cut
                options["encoding"] = "cp1252"
    header = head.decode(options.get("encoding", "utf-8"), errors="replace").split("\n", 1)[0]
    counts = {delimiter: header.count(delimiter) for delimiter in (",", *OTHER_DELIMITERS)}
    best = max(counts, key=lambda delimiter: counts[delimiter])
    if kind == "csv" and path.suffix.lower() != ".tsv" and counts[best] and best != ",":
        options["delimiter"] = best
    return options


def _fit(columns: Mapping[str, Any]) -> tuple[str | None, dict[str, str]]:
    """The first type of task whose fields are all there, and the columns that are called otherwise."""
    plain_names = {name.strip().casefold().replace(" ", "_"): name for name in columns}
    for task, fields in FIELDS.items():
        found = {
            field: next((plain_names[n] for n in (field, *others) if n in plain_names), None)
            for field, others in fields.items()
        }
        if all(found.values()):
            labels = found.get("label") == "labels" and isinstance(columns["labels"], list)
            names = {field: str(name) for field, name in found.items() if name != field}
            return task, {} if labels and task == "text-classification" else names
    return ("fill-mask", {}) if "text" in plain_names else (None, {})


def _of_documents(rows: Sequence[tuple[Place, Mapping[str, Any]]]) -> str:
    if any(row.get("relations") for _, row in rows):
        return "relation-extraction"
    return "token-classification" if any(row.get("entities") for _, row in rows) else "text-classification"


def _scheme(rows: Sequence[tuple[Place, Mapping[str, Any]]], table: Mapping[str, Any]) -> str | None:
    """The scheme of the tags, if it is not BIO."""
    name = table.get("columns", {}).get("tags", "tags")
    tags = [
        tag for _, row in rows for tag in (row[name] if isinstance(row.get(name), list) else []) if isinstance(tag, str)
    ]
    if any(tag[:2] in ("S-", "E-", "U-", "L-") for tag in tags):
        return "BIOES"
    begins = [tag for before, tag in itertools.pairwise(["O", *tags]) if tag[:2] == "I-" and before == "O"]
    return "IOB" if begins else None


def as_toml(found: Inspected, name: str) -> str:
    """The `[data]` table of a task of this name."""
    import tomli_w

    return tomli_w.dumps({"data": {name: dict(found.table)}})


def as_json(found: Inspected, name: str) -> dict[str, Any]:
    """As plain data."""
    return {
        "format": found.kind,
        "task": found.task,
        "table": {name: dict(found.table)},
        "rows": [{"place": place, "row": _short(row)} for place, row in found.rows],
        "bad": [{"place": place, "what": what} for place, what in found.bad],
    }


def print_inspected(found: Inspected, name: str) -> None:
    """Print three records, shortened, what is wrong, and the table."""
    fits = f"; it fits {found.task}" if found.task else "; no type of task has such fields, so say which by `columns`"
    print(f"{found.path} is {READERS[found.kind].what}{fits}.")
    columns = list(dict.fromkeys(column for _, row in found.rows for column in row))
    lines = [(place, *(_short(row).get(column, "") for column in columns)) for place, row in found.rows]
    print_table(("place", *columns), lines, title="The first records, shortened")
    if found.bad:
        print_table(("place", "what is wrong"), found.bad[:SHOWN], title=f"{len(found.bad)} bad rows among the first")
    print(as_toml(found, name))


def _short(row: Mapping[str, Any]) -> dict[str, str]:
    return {column: plain(value if isinstance(value, str) else repr(value), WIDEST) for column, value in row.items()}
