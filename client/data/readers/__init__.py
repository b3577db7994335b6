"""The registry of readers: one small file for each way in which institutions keep records.

A reader yields the rows of a source one after the other, with their places, and goes on after a bad one. What a row is
called, which rows count, and what stands in their cells is the business of `client.data.sources`, whatever the reader.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from client.data.readers import (
    brat,
    conll,
    delimited,
    doccano,
    folder,
    inception,
    json_array,
    json_lines,
    label_studio,
    omop,
    sql,
    squad,
    tables,
)
from client.data.readers.base import Rows, Source


@dataclass(frozen=True)
class Reader:
    """One way of reading."""

    read: Callable[[Source], Rows]
    what: str
    """What it reads, for people."""
    cells: bool = False
    """Whether a list stands in a cell as the text of its JSON."""
    documents: bool = False
    """Whether rows are annotated documents: `text`, `entities`, `relations`, `labels` and columns beside."""


READERS: Mapping[str, Reader] = {
    "jsonl": Reader(json_lines.read, "JSON Lines: an object a line"),
    "json": Reader(json_array.read, "a JSON array of objects"),
    "csv": Reader(delimited.read, "CSV with a header", cells=True),
    "parquet": Reader(tables.read_parquet, "Parquet"),
    "folder": Reader(folder.read, "a folder of files, texts among them", cells=True),
    "datasets": Reader(tables.read_datasets, "a folder of Hugging Face `datasets`"),
    "sql": Reader(sql.read, "the rows of an SQL query", cells=True),
    "conll": Reader(conll.read, "columns of words and tags, a sentence a block"),
    "squad": Reader(squad.read, "SQuAD, 1.1 and 2.0"),
    "brat": Reader(brat.read, "a folder of brat: .txt and .ann", documents=True),
    "doccano": Reader(doccano.read, "an export of doccano", documents=True),
    "label-studio": Reader(label_studio.read, "an export of Label Studio as JSON", documents=True),
    "inception": Reader(inception.read, "an export of INCEpTION: UIMA CAS as XMI or JSON", documents=True),
    "omop": Reader(omop.read, "notes of OMOP, the patient being the owner", documents=True),
}
"""By what `format` is called."""
