"""A folder of files: texts, one a record, and files of records, each read by its ending."""

from pathlib import Path

from client.data.readers import delimited, json_array, json_lines, tables
from client.data.readers.base import BadRow, Rows, Source, named, not_text, open_text
from client.data.readers.options import format_of
from shared.errors import DataError, joined

READ = {"jsonl": json_lines.read, "json": json_array.read, "csv": delimited.read, "parquet": tables.read_parquet}
TEXT = ".txt"


def files_of(folder: Path, what: str = "a folder of files") -> list[Path]:
    """All files below a folder, in the order of their names; hidden ones are no part of it.

    Raises:
        DataError: It is no folder, or there is no file in it.
    """
    if not folder.is_dir():
        raise DataError(f"Expected {what} at {folder}, but there is no folder; check the path.")
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    files = [file for file in files if not any(part[0] in "._" for part in file.relative_to(folder).parts)]
    if not files:
        raise DataError(f"Expected {what} at {folder}, but the folder is empty.")
    return files


def read(source: Source) -> Rows:
    """The records of all files; place is the file's name below the folder, and its line.

    A text file gives a record with `text`, `file`, and as `label` the folder that it lies in, if that is another one.
    """
    files = files_of(source.path)
    known = [file for file in files if file.suffix.lower() == TEXT or format_of(file) in READ]
    if len(known) < len(files):
        others = [str(file.relative_to(source.path)) for file in files if file not in known]
        raise DataError(
            f"Expected files of text (.txt) or of records (.jsonl, .json, .csv, .parquet) in {source.path}, but there "
            f"are others: {joined(others, most=5)}; move them elsewhere."
        )
    for file in files:
        name = str(file.relative_to(source.path))
        kind = format_of(file)
        if kind in READ:
            for place, row in READ[kind](Source(file, source.how, source.split)):
                yield f"{name}, {named(place)}", row
        else:
            yield name, read_text(file, source)


def read_text(file: Path, source: Source) -> dict[str, str] | BadRow:
    """The record of one text."""
    with open_text(file, source.how.encoding) as stream:
        text = stream.read()
    if wrong := not_text(text, source.how.encoding):
        return wrong
    place = file.relative_to(source.path)
    label = {"label": place.parts[0]} if len(place.parts) > 1 else {}
    return {"text": text.strip(), "file": str(place), **label}
