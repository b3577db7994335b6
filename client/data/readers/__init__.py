"""The registry of readers: one small file for each way in which institutions keep records.

A reader yields the rows of a source one after the other, with their places, and goes on after a bad one. What a row is
called, which rows count, and what stands in their cells is the business of `client.data.sources`, whatever the reader.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from client.data.readers import delimited, folder, json_array, json_lines, sql, tables
from client.data.readers.base import Rows, Source


@dataclass(frozen=True)
class Reader:
    """One way of reading."""

    read: Callable[[Source], Rows]
    what: str
    """What it reads, for people."""
    cells: bool = False
    """Whether a list stands in a cell as the text of its JSON."""


READERS: Mapping[str, Reader] = {
    "jsonl": Reader(json_lines.read, "JSON Lines: an object a line"),
    "json": Reader(json_array.read, "a JSON array of objects"),
    "csv": Reader(delimited.read, "CSV with a header", cells=True),
    "parquet": Reader(tables.read_parquet, "Parquet"),
    "folder": Reader(folder.read, "a folder of files, texts among them", cells=True),
    "datasets": Reader(tables.read_datasets, "a folder of Hugging Face `datasets`"),
    "sql": Reader(sql.read, "the rows of an SQL query", cells=True),
}
"""By what `format` is called."""
