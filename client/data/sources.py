"""Rows as an institution means them, from whatever source: which count, what their fields are called, what they hold.

How each kind of source is read stands in `client.data.readers`.
"""

import math
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from client.data.readers import READERS
from client.data.readers.base import BadRow as BadRow
from client.data.readers.base import Place as Place
from client.data.readers.base import Rows as Rows
from client.data.readers.base import Source
from client.data.readers.base import named as named
from client.data.readers.json_lines import parse
from client.data.readers.options import AS_IT_IS, SUFFIXES, Reading
from shared.errors import DataError, listed
from shared.fields import Split
from shared.tasks.labels import named as called
from shared.tasks.labels import spelt

EXAMPLE = '["a", "b"]'


def read_rows(path: Path, how: Reading = AS_IT_IS) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield the records of a source with their places.

    Raises:
        DataError: The source is missing, of an unknown format or malformed; names the place where there is one.
    """
    for place, row in scan_rows(path, how=how):
        if isinstance(row, BadRow):
            raise DataError(f"{path}, {named(place)}: {row.what}.")
        yield place, row


def scan_rows(
    path: Path, lists: Collection[str] = (), how: Reading = AS_IT_IS, split: Split = "train"
) -> Iterator[tuple[Place, dict[str, Any] | BadRow]]:
    """Yield the records of a source as `read_rows` does, but go on after a bad row, which is yielded as well.

    A field that is null, NaN or empty text is absent, in every format.

    Args:
        path: The source.
        lists: Fields that hold a list; in a cell of CSV or SQL that is JSON. All other cells are as they come.
        how: What the institution says of it.
        split: Which split is read.

    Raises:
        DataError: The source is missing, of an unknown format, or broken as a whole; or `where` finds nothing.
    """
    kind = how.kind_of(path)
    if kind is None:
        raise DataError(f"Expected a data file that ends in one of {', '.join(SUFFIXES)}, but {path} does not.")
    reader, chosen = READERS[kind], _Where(how, split)
    try:
        for place, row in reader.read(Source(path, how, split, frozenset(lists))):
            if isinstance(row, dict):
                row = {key: value for key, value in row.items() if not is_absent(value)}
                if not chosen(row):
                    continue
                row = _called(row, how.columns)
                row = with_lists(row, lists) if reader.cells else row
            yield place, row if isinstance(row, BadRow) else _valued(row, how.values)
    except FileNotFoundError as error:
        raise DataError(f"Expected a data file at {path}, but there is none; check the path.") from error
    except UnicodeError as error:
        raise DataError(f"Expected {how.encoding} in {path}, but it is not ({error}); convert the file.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"Could not read {path} as {kind}: {error}.") from error
    chosen.end(path)


class _Where:
    """Which rows count."""

    def __init__(self, how: Reading, split: Split) -> None:
        self.wanted: dict[str, list[Any]] = {}
        for column, values in how.where.items():
            of_split = values.get(split) if isinstance(values, Mapping) else values
            if of_split is not None:
                self.wanted[column] = [spelt(v) for v in (of_split if isinstance(of_split, tuple) else (of_split,))]
        self.seen, self.kept, self.columns = 0, 0, dict[str, None]()

    def __call__(self, row: Mapping[str, Any]) -> bool:
        """Whether a row counts: in each column named it has one of the values, or an item of its list is one."""
        if not self.wanted:
            return True
        self.seen += 1
        self.columns.update(dict.fromkeys(row))
        for column, wanted in self.wanted.items():
            value = row.get(column)
            if not any(called(item, {}, wanted) in wanted for item in (value if isinstance(value, list) else [value])):
                return False
        self.kept += 1
        return True

    def end(self, path: Path) -> None:
        """DataError if a column was in no row, or no row was as it says."""
        if missing := [column for column in self.wanted if self.seen and column not in self.columns]:
            raise DataError(
                f"Expected the columns {listed(missing)} that `where` names in {path}, but no row has them; there are "
                f"only {listed(sorted(self.columns))}."
            )
        if self.seen and not self.kept:
            raise DataError(f"None of the {self.seen} rows of {path} is as `where` says; correct it.")


def is_absent(value: Any) -> bool:
    """Whether a field counts as absent; CSV cannot distinguish that from empty text, and pandas writes NaN for it."""
    return value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and math.isnan(value))


def _called(row: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The row with the fields that stand under other names under their own."""
    if not columns:
        return row
    rest = {name: value for name, value in row.items() if name not in columns.values() and name not in columns}
    return rest | {field: row[column] for field, column in columns.items() if column in row}


def with_lists(record: dict[str, Any], lists: Collection[str]) -> dict[str, Any] | BadRow:
    """A record with its lists (tokens, tags, answers) read from their cells, in which they stand as JSON."""
    for name in lists:
        if not isinstance(record.get(name), str):
            continue
        parsed = parse(f'{{"list": {record[name]}}}')
        if isinstance(parsed, BadRow):
            python = "a Python list came, in single quotes; write the cell with json.dumps"
            why = python if record[name].startswith("['") else parsed.what.split(", but ", 1)[-1]
            return BadRow(f"expected a list as JSON in {name!r}, such as {EXAMPLE}, but {why}")
        record = {**record, name: parsed["list"]}
    return record


def _valued(row: dict[str, Any], values: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """The row with other values in some fields; a value that is not named stays."""
    changed = {}
    for field, others in values.items():
        if field in row:
            found = row[field]
            items = [_of(others, item) for item in (found if isinstance(found, list) else [found])]
            changed[field] = items if isinstance(found, list) else items[0]
    return {**row, **changed} if changed else row


def _of(others: Mapping[str, str], value: Any) -> Any:
    text = spelt(value)
    return others.get(text, value) if isinstance(text, str) else value
