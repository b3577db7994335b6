"""CSV with a header, whatever stands between its columns."""

import csv
from pathlib import Path
from typing import Any

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
    path, encoding = source.path, source.how.encoding
    with open_text(path, encoding) as stream:
        csv.field_size_limit(LONGEST_CELL)
        reader = csv.DictReader(stream, strict=True, delimiter=source.how.delimiter or delimiter_of(path))
        try:
            names = reader.fieldnames or []
        except csv.Error as error:
            raise DataError(f"{path}, line 1: expected CSV, but {error}.") from error
        columns = len(names)
        _check_delimiter(source, list(names))
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(
                f"{path}, line 1: expected columns of different names, but {listed(twice)} stand there twice."
            )
        while True:
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield reader.reader.line_num, BadRow(f"expected CSV, but {error}")
                continue
            yield reader.line_num, _parse(record, columns, encoding)


def _check_delimiter(source: Source, names: list[str]) -> None:
    for delimiter, plural in OTHER_DELIMITERS.items():
        if source.how.delimiter is None and len(names) == 1 and delimiter in names[0]:
            raise DataError(
                f"{source.path}, line 1: expected columns between commas, but {plural} seem to stand between them; "
                f"save the file with commas, or add delimiter = {delimiter!r} to its [data] table."
            )


def _parse(record: dict[str, Any], columns: int, encoding: str) -> dict[str, Any] | BadRow:
    if None in record or None in record.values():
        return BadRow(f"expected {columns} columns as in the header, but the row has another number")
    return not_text("".join(record.values()), encoding) or record
