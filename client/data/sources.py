"""Reading records from files: JSON Lines, CSV and Parquet, one table of readers."""

import csv
import gzip
import json
import math
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from shared.config import UTF16_MARKS
from shared.errors import DataError

LONGEST_CELL = 2**31 - 1
"""Characters of a CSV cell; Python's own limit would refuse what JSON Lines may hold."""
OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


EXAMPLE = '["a", "b"]'


@dataclass(frozen=True)
class BadRow:
    """A row that is no record."""

    what: str
    """What was expected, and what came."""
    encoding: bool = False
    """Whether it is that the row is not UTF-8."""


Rows = Iterator[tuple[int, dict[str, Any] | BadRow]]
"""Line or row number, from 1, and the record, or what is wrong with the row."""


def format_of(path: Path) -> str | None:
    """The suffix that decides how `path` is read; None if it is not a known format."""
    return next((suffix for suffix in FORMATS if path.name.lower().endswith(suffix)), None)


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the records of a file with their line numbers.

    Raises:
        DataError: The file is missing, of an unknown format or malformed; names the line where there is one.
    """
    for number, row in scan_rows(path):
        if isinstance(row, BadRow):
            raise DataError(f"{path}, line {number}: {row.what}.")
        yield number, row


def scan_rows(path: Path, lists: Collection[str] = ()) -> Rows:
    """Yield the records of a file as `read_rows` does, but go on after a bad row, which is yielded as well.

    A field that is null, NaN or empty text is absent, in every format.

    Args:
        path: The file.
        lists: Fields that hold a list; in a CSV cell that is JSON. All other cells are text.

    Raises:
        DataError: The file is missing, of an unknown format, or broken as a whole.
    """
    suffix = format_of(path)
    if suffix is None:
        raise DataError(f"Expected a data file that ends in one of {', '.join(FORMATS)}, but {path} does not.")
    try:
        for number, row in FORMATS[suffix](path):
            if isinstance(row, dict):
                row = {key: value for key, value in row.items() if not _is_absent(value)}
                row = _with_lists(row, lists) if suffix == ".csv" else row
            yield number, row
    except FileNotFoundError as error:
        raise DataError(f"Expected a data file at {path}, but there is none; check the path.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"Expected UTF-8 text in {path}, but byte {error.start} is not; convert the file.") from error
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise DataError(f"Could not read {path} as {suffix}: {error}.") from error


def _is_absent(value: Any) -> bool:
    """Whether a field counts as absent; CSV cannot distinguish that from empty text, and pandas writes NaN for it."""
    return value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and math.isnan(value))


def _open_text(path: Path) -> TextIO:
    """The file as text; a byte that is not UTF-8 becomes a lone surrogate, for `_not_utf8` to find."""
    opener: Callable[..., Any] = gzip.open if path.name.lower().endswith(".gz") else open
    with opener(path, "rb") as stream:
        if stream.read(2) in UTF16_MARKS:
            raise DataError(
                f"Expected UTF-8 text in {path}, but it is UTF-16; convert the file (iconv -f UTF-16 -t UTF-8)."
            )
    return cast(TextIO, opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline=""))


def _not_utf8(text: str) -> BadRow | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        if code not in range(0xDC80, 0xDD00):
            return BadRow(f"expected text, but there is half a character (surrogate U+{code:04X})", encoding=True)
        byte = bytes([code - 0xDC00])
        other = byte.decode("cp1252", errors="replace")
        return BadRow(f"expected UTF-8, but byte 0x{byte.hex()} came (in Windows-1252 it is {other!r})", encoding=True)
    return None


def _read_jsonl(path: Path) -> Rows:
    with _open_text(path) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield number, _not_utf8(line) or _parse_json(line)


def _parse_json(line: str) -> dict[str, Any] | BadRow:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        if line.lstrip()[:1] == "[":
            return BadRow("expected a JSON object, but a list begins; write one object per line (jq -c '.[]')")
        return BadRow(f"expected a JSON object, but {error.msg.lower()}")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a list in a list in a list ...
        return BadRow(f"expected a JSON object that can be read, but {error}")
    if isinstance(record, list):
        return BadRow("expected a JSON object, but a list came; write one object per line (jq -c '.[]')")
    if not isinstance(record, dict):
        return BadRow(f"expected a JSON object, but a {type(record).__name__} came")
    # An escaped half of a character ("\\ud83d") is legal JSON, but no tokenizer reads it.
    half = _not_utf8(json.dumps(record, ensure_ascii=False)) if "\\ud" in line.lower() else None
    return half or record


def _read_csv(path: Path) -> Rows:
    with _open_text(path) as stream:
        csv.field_size_limit(LONGEST_CELL)
        reader = csv.DictReader(stream, strict=True)
        try:
            names = reader.fieldnames or []
        except csv.Error as error:
            raise DataError(f"{path}, line 1: expected CSV, but {error}.") from error
        columns = len(names)
        for delimiter, plural in OTHER_DELIMITERS.items():
            if columns == 1 and delimiter in names[0]:
                raise DataError(
                    f"{path}, line 1: expected columns between commas, but {plural} seem to stand between them; "
                    "save the file with commas."
                )
        while True:
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield reader.reader.line_num, BadRow(f"expected CSV, but {error}")
                continue
            yield reader.line_num, _parse_csv(record, columns)


def _parse_csv(record: dict[str, Any], columns: int) -> dict[str, Any] | BadRow:
    if None in record or None in record.values():
        return BadRow(f"expected {columns} columns as in the header, but the row has another number")
    return _not_utf8("".join(record.values())) or record


def _read_parquet(path: Path) -> Rows:
    number = 0
    with pq.ParquetFile(path) as table:
        for batch in table.iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield number, record


def _with_lists(record: dict[str, Any], lists: Collection[str]) -> dict[str, Any] | BadRow:
    """A record of CSV with its lists (tokens, tags, answers) read from their cells, in which they stand as JSON."""
    for name in lists:
        if name not in record:
            continue
        parsed = _parse_json(f'{{"list": {record[name]}}}')
        if isinstance(parsed, BadRow):
            python = "a Python list came, in single quotes; write the cell with json.dumps"
            why = python if record[name].startswith("['") else parsed.what.split(", but ", 1)[-1]
            return BadRow(f"expected a list as JSON in {name!r}, such as {EXAMPLE}, but {why}")
        record = {**record, name: parsed["list"]}
    return record


FORMATS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
"""How each kind of file is read, by suffix."""
