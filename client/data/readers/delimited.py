"""CSV with a header, whatever stands between its columns."""

import csv
from pathlib import Path
from typing import Any, TextIO

from client.data.readers.base import BadRow, Rows, Source, not_text, open_text
from shared.errors import DataError, listed

LONGEST_CELL = 2**31 - 1
"""Characters of a cell; Python's own limit would refuse what JSON Lines may hold."""
OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def delimiter_of(path: Path) -> str:
    """What stands between columns where nobody says it."""
    return "\t" if path.suffix.lower() == ".tsv" else ","


def read(source: Source) -> Rows:
    """The rows of a file, every cell as text; place is the line on which a row ends."""
    path, how = source.path, source.how
    with open_text(path, how.encoding) as stream:
        yield from rows_of(stream, path, how.delimiter, how.encoding)


def rows_of(stream: TextIO, path: Path, delimiter: str | None = None, encoding: str = "utf-8") -> Rows:
    """The rows of a stream, as `read`.

    Args:
        stream: As `open_text` gives it.
        path: What it is called.
        delimiter: Between columns; what the path's ending says if not given.
        encoding: What the stream is read as.

    Raises:
        DataError: Its first line is no header.
    """
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.DictReader(stream, strict=True, delimiter=delimiter or delimiter_of(path))
    try:
        names = list(reader.fieldnames or [])
    except csv.Error as error:
        raise DataError(f"{path}, line 1: expected CSV, but {error}.") from error
    _check_header(names, path, delimiter)
    while True:
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.reader.line_num, BadRow(f"expected CSV, but {error}")
            continue
        yield reader.reader.line_num, _parse(record, len(names), encoding)


def _check_header(names: list[str], path: Path, delimiter: str | None) -> None:
    for other, plural in OTHER_DELIMITERS.items():
        if delimiter is None and len(names) == 1 and other in names[0]:
            raise DataError(
                f"{path}, line 1: expected columns between commas, but {plural} seem to stand between them; "
                f"save the file with commas, or add delimiter = {other!r} to its [data] table."
            )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}, line 1: expected columns of different names, but {listed(twice)} come twice.")


def _parse(record: dict[str, Any], columns: int, encoding: str) -> dict[str, Any] | BadRow:
    if None in record or None in record.values():
        return BadRow(f"expected {columns} columns as in the header, but the row has another number")
    return not_text("".join(record.values()), encoding) or record
