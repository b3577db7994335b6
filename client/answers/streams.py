"""Records that come in and answers that go out, some at a time: JSON Lines, CSV and Parquet, files and pipes."""

import csv
import json
import queue
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

from shared.errors import ConfigError, DataError

Format = Literal["jsonl", "csv", "parquet"]
PIPE = "-"
AT_ONCE = 256
"""Most records that are read and answered together."""
ERROR = "error"
"""The field that says why a record has no answer."""
Row = tuple[int | str, Mapping[str, Any] | str]
"""Line, or in words what finds the row, and the record, or what is wrong with it."""


def read(source: str, format: Format | None, lists: Collection[str]) -> Iterator[list[Row]]:
    """Yield the records of a file or of standard input, as many as have come, but at most `AT_ONCE`.

    Args:
        source: A file, whose suffix says what it is; or `-`.
        format: Of standard input; None is JSON Lines.
        lists: Fields that hold a list, which a CSV cell spells as JSON.

    Raises:
        ConfigError: Parquet is asked of standard input, which cannot be read from its end.
        DataError: There is no reading it.
    """
    if source == PIPE and format == "parquet":
        raise ConfigError("Expected JSON Lines or CSV on standard input: Parquet is read from its end; name a file.")
    from client.data.sources import BadRow, scan_rows

    if source == PIPE:
        return _as_they_come(_piped(sys.stdin, format or "jsonl", lists))
    rows = scan_rows(Path(source), lists)
    return _as_they_come((number, row.what if isinstance(row, BadRow) else row) for number, row in rows)


def _as_they_come(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows that a thread reads beside, so that a slow pipe is answered line by line and a fast one in large parts."""
    waiting: queue.Queue[Row | BaseException | None] = queue.Queue(2 * AT_ONCE)

    def fill() -> None:
        try:
            for row in rows:
                waiting.put(row)
            waiting.put(None)
        except BaseException as error:  # for who takes them
            waiting.put(error)

    threading.Thread(target=fill, name="records", daemon=True).start()
    ended: BaseException | bool = False
    while not ended:
        part: list[Row] = []
        while len(part) < AT_ONCE and not ended:
            try:
                row = waiting.get(block=not part)
            except queue.Empty:
                break
            if row is None or isinstance(row, BaseException):
                ended = row or True
            else:
                part.append(row)
        if part:
            yield part
    if isinstance(ended, BaseException):
        raise ended


def _piped(stream: TextIO, format: str, lists: Collection[str]) -> Iterator[Row]:
    """Records of standard input."""
    from client.data.readers.base import BadRow, not_text
    from client.data.readers.delimited import rows_of
    from client.data.readers.json_lines import parse
    from client.data.sources import is_absent, with_lists

    if format == "csv":
        for place, found in rows_of(stream, Path("standard input")):
            if isinstance(found, dict):
                found = with_lists({name: cell for name, cell in found.items() if not is_absent(cell)}, lists)
            yield place, found.what if isinstance(found, BadRow) else found
        return
    for number, line in enumerate(stream, start=1):
        if line.strip():
            parsed = not_text(line) or parse(line)
            yield number, parsed.what if isinstance(parsed, BadRow) else parsed


class Output(ExitStack):
    """Where answers go: a file, which is there under its name when it is whole, or standard output.

    Args:
        target: The file, or `-`.
        format: If the suffix does not say it; None is JSON Lines.

    Raises:
        ConfigError: The file is there, its suffix is unknown, or Parquet is asked of standard output.
    """

    def __init__(self, target: str, format: Format | None) -> None:
        super().__init__()
        suffix = None if target == PIPE else Path(target).suffix.lower().lstrip(".")
        self._format = format or suffix or "jsonl"
        self._file = None if target == PIPE else Path(target)
        if self._file and suffix not in get_args(Format) and format is None:
            raise ConfigError(f"Expected a file for answers that ends in .jsonl, .csv or .parquet, not {target}.")
        if self._file and self._file.exists():
            raise ConfigError(f"Expected a new file for answers, but {target} exists; name another.")
        if not self._file and self._format == "parquet":
            raise ConfigError("Expected a file for Parquet; name one with --out.")
        self._part = self._file.with_name(f".{self._file.name}.part") if self._file else None
        self._write: Callable[[list[dict[str, Any]]], None] | None = None
        self._held: list[dict[str, Any]] = []

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Write some rows; those before the first answer wait, for it says which columns there are."""
        self._held += rows
        if self._format == "jsonl" or any(row.get(ERROR) is None for row in self._held):
            self._flush()

    def keep(self) -> None:
        """Give the file its name: all has been written."""
        if self._held:
            self._flush()
        self.close()
        if self._part and self._part.exists() and self._file:
            self._part.replace(self._file)

    def _flush(self) -> None:
        if self._write is None:
            fields = {name: value for row in self._held for name, value in flat(row).items()} | {ERROR: None}
            self._write = {"jsonl": self._lines, "csv": self._cells, "parquet": self._columns}[self._format](fields)
        self._write(self._held)
        self._held = []

    def _text(self) -> TextIO:
        if self._part is None:
            return sys.stdout
        return self.enter_context(self._part.open("w", encoding="utf-8", newline=""))

    def _lines(self, fields: Mapping[str, Any]) -> Callable[[list[dict[str, Any]]], None]:
        stream = self._text()

        def write(rows: list[dict[str, Any]]) -> None:
            stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            stream.flush()

        return write

    def _cells(self, fields: Mapping[str, Any]) -> Callable[[list[dict[str, Any]]], None]:
        stream = self._text()
        writer = csv.DictWriter(stream, list(fields), restval="", extrasaction="ignore")
        writer.writeheader()

        def write(rows: list[dict[str, Any]]) -> None:
            writer.writerows(map(flat, rows))
            stream.flush()

        return write

    def _columns(self, fields: Mapping[str, Any]) -> Callable[[list[dict[str, Any]]], None]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        assert self._part is not None
        kinds = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
        schema = pa.schema([(name, kinds.get(type(value), pa.string())) for name, value in fields.items()])
        writer: Any = self.enter_context(closing(pq.ParquetWriter(self._part, schema)))

        def write(rows: list[dict[str, Any]]) -> None:
            writer.write_table(pa.Table.from_pylist([flat(row) for row in rows], schema))

        return write


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as cells: `task.label` for a part of an answer, and JSON where an answer is a list."""
    cells: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            cells |= {f"{name}.{key}": _cell(part) for key, part in value.items()}
        else:
            cells[name] = _cell(value)
    return cells


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def count_rows(source: str) -> int | None:
    """About how many records a file has, for a progress bar; None if that is not to be had at once."""
    if source == PIPE or source.lower().endswith(".gz"):
        return None
    try:
        if source.lower().endswith(".parquet"):
            import pyarrow.parquet as pq

            return int(pq.read_metadata(source).num_rows)
        with open(source, "rb") as stream:
            return sum(part.count(b"\n") for part in iter(lambda: stream.read(2**20), b""))
    except (OSError, ValueError):
        return None


def refusal(bad: Sequence[tuple[int | str, str]], rows: int, source: str) -> DataError:
    """What to say in the end of rows that could not be read."""
    from client.data.readers.base import named

    lines = "; ".join(f"{named(place)}: {what}" for place, what in bad[:5])
    more = f"; and {len(bad) - 5} more bad rows" if len(bad) > 5 else ""
    where = "standard input" if source == PIPE else source
    return DataError(f"{len(bad)} of {rows} rows of {where} could not be answered: {lines}{more}.")
