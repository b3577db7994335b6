"""Reading records from files: JSON Lines, CSV and Parquet, one table of readers."""

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shared.errors import DataError

Rows = Iterator[tuple[int, dict[str, Any]]]
"""Line or row number, from 1, and the record."""


def format_of(path: Path) -> str | None:
    """The suffix that decides how `path` is read; None if it is not a known format."""
    return next((suffix for suffix in FORMATS if path.name.lower().endswith(suffix)), None)


def read_rows(path: Path) -> Rows:
    """Yield the records of a file with their line numbers.

    Raises:
        DataError: The file is missing, of an unknown format or malformed; names the line where there is one.
    """
    suffix = format_of(path)
    if suffix is None:
        raise DataError(f"Expected a data file that ends in one of {', '.join(FORMATS)}, but {path} does not.")
    try:
        yield from FORMATS[suffix](path)
    except FileNotFoundError as error:
        raise DataError(
            f"Expected a data file at {path}, but there is none; mend the path in institution.toml."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"Expected UTF-8 text in {path}, but byte {error.start} is not; convert the file.") from error
    except (OSError, EOFError, pa.ArrowException) as error:
        raise DataError(f"Could not read {path} as {suffix}: {error}.") from error


def _read_jsonl(path: Path) -> Rows:
    opener: Callable[..., Any] = gzip.open if path.name.lower().endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: expected a JSON object, but {error.msg.lower()}.") from error
            if not isinstance(record, dict):
                raise DataError(f"{path}, line {number}: expected a JSON object, but a {type(record).__name__} came.")
            yield number, record


def _read_csv(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        try:
            for record in reader:
                if None in record or None in record.values():
                    raise DataError(
                        f"{path}, line {reader.line_num}: expected {len(reader.fieldnames or [])} columns as in the "
                        "header, but the row has another number."
                    )
                yield reader.line_num, {key: _cell(value) for key, value in record.items()}
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: expected CSV, but {error}.") from error


def _read_parquet(path: Path) -> Rows:
    number = 0
    with pq.ParquetFile(path) as table:
        for batch in table.iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield number, record


def _cell(value: str) -> Any:
    """Lists and objects (tokens, tags, answers) stand in a CSV cell as JSON."""
    if value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


FORMATS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
"""How each kind of file is read, by suffix."""
