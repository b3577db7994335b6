"""From an institution's files to checked and encoded records: every bad row is named, none is dropped."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from client.data.annotations import records_of
from client.data.augmentation import open_rewording
from client.data.holdout import check_limit, choose
from client.data.identity import owner_of
from client.data.masking.finding import open_finder
from client.data.masking.records import mask_records
from client.data.readers import READERS
from client.data.readers.options import AS_IT_IS
from client.data.sources import BadRow, Place, named, scan_rows
from client.institution import Data
from shared.errors import CollegiumError, ConfigError, DataError, Reasons, listed
from shared.fields import Split
from shared.tasks import Example, Record, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHOWN = 5
"""Bad rows spelt out in one error."""
Row = tuple[Place, Record]
"""Where a record stands, and the record."""


@dataclass(frozen=True)
class FileReport:
    """One file: its rows, and those that are no records of the task."""

    path: Path
    rows: int
    bad: tuple[tuple[Place, BadRow], ...]
    """Where they stand, and what is wrong."""
    broken: str | None = None
    """Why reading ended early, or did not begin."""

    def refusal(self, task: str) -> str | None:
        """Why nothing is trained or scored with the file; None if it is as it should be."""
        if self.broken or not self.rows:
            advice = "put records there, or name no file for this split"
            return self.broken or f"Expected records of task {task} in {self.path}, but the file is empty; {advice}."
        if not self.bad:
            return None
        lines = "; ".join(f"{named(place)}: {row.what}" for place, row in self.bad[:SHOWN])
        more = f"; and {len(self.bad) - SHOWN} more bad rows" if len(self.bad) > SHOWN else ""
        return f"{self.unquoted(task)}: {lines}{more}."

    def unquoted(self, task: str) -> str:
        """The refusal without what came in records."""
        if not self.bad:
            return f"Expected records of task {task} in {self.path}, which cannot be read or are none"
        part = f"{len(self.bad)} of {self.rows} rows ({len(self.bad) / self.rows:.1%})"
        return f"{part} of {self.path} are no records of task {task}"


@dataclass(frozen=True)
class TaskRows:
    """What reading all files of a task has shown."""

    files: Mapping[Split, FileReport]
    used: dict[Split, list[Row]]
    """Per split the good rows that are trained on or scored; empty where none can be chosen."""
    refused: tuple[CollegiumError, ...]
    """What is wrong with the task's table in institution.toml, or with what it chooses."""

    def raise_any(self, task: str) -> None:
        """Raise DataError or ConfigError if anything is wrong, all of it at once."""
        reasons = Reasons()
        for file in self.files.values():
            with reasons.gather():
                if refusal := file.refusal(task):
                    raise DataError(refusal, file.unquoted(task))
        for error in self.refused:
            with reasons.gather():
                raise error
        reasons.end()


@dataclass(frozen=True)
class TaskData:
    """One split of one task: the records and their encoded examples (`Example.record` indexes `records`)."""

    records: tuple[Record, ...]
    examples: tuple[Example, ...]
    annotates: tuple[str, ...] | None = None
    """The labels that the site annotates; None if all."""


def load_data(
    data: Mapping[str, Data],
    tasks: Mapping[str, Task],
    tokenizer: "PreTrainedTokenizerFast",
    max_length: int,
    key: bytes,
    *,
    private: bool = False,
) -> dict[str, dict[Split, TaskData]]:
    """Read, check and encode everything an institution holds, per task and split.

    Args:
        data: Where it lies.
        tasks: The federation's.
        tokenizer: The backbone's.
        max_length: Longest input in sub-tokens.
        key: Decides who is held out, and who is left out by `limit` (`client.data.holdout`).
        private: Whether `limit` must be a share (`client.data.holdout.check_limit`).

    Raises:
        ConfigError: A task is not in the federation, or labels that a site says it annotates or renames are not.
        DataError: A file is missing or empty, or rows are wrong; names file, lines and what is wrong.
    """
    return {
        name: {
            split: _encode(
                masked([r for _, r in rows], tasks[name], data[name], key),
                tasks[name],
                tokenizer,
                max_length,
                data[name].annotates,
            )
            for split, rows in splits.items()
        }
        for name, splits in read_data(data, tasks, key, private=private).items()
    }


def masked(records: list[Record], task: Task, source: Data, key: bytes) -> list[Record]:
    """The records as they are trained on and scored: without personal data, where [data.TASK.mask] says so."""
    if source.mask is None:
        return records
    owners = [owner_of(record, task, source.group_by) for record in records]
    return mask_records(records, owners, task, open_finder(source.mask), key)


def read_data(
    data: Mapping[str, Data], tasks: Mapping[str, Task], key: bytes, *, private: bool
) -> dict[str, dict[Split, list[Row]]]:
    """The rows of each task and split that are used; arguments and errors as `load_data`, all errors at once."""
    reasons, used = Reasons(), dict[str, dict[Split, list[Row]]]()
    for name, source in data.items():
        with reasons.gather():
            rows = read_task(name, source, tasks, key, private=private)
            rows.raise_any(name)
            used[name] = rows.used
    reasons.end()
    return used


def read_task(name: str, source: Data, tasks: Mapping[str, Task], key: bytes, *, private: bool) -> TaskRows:
    """Read one task's files without raising, whatever is in them; arguments as `load_data`."""
    table, choice = Reasons(), Reasons()
    files: dict[Split, FileReport] = {}
    rows: dict[Split, list[Row]] = {}
    used: dict[Split, list[Row]] = {}
    with table.gather():
        if name not in tasks:
            named = f"name the table [data.X] for one of {listed(sorted(tasks))}"
            raise ConfigError(f"Expected a task of the federation, but it has no task {name!r}; {named}.")
        task = tasks[name]
        with table.gather():
            check_labels(source, task)
        with table.gather():
            if private:
                check_limit(name, source.limit)
        with table.gather():
            if source.mask:
                open_finder(source.mask)
        with table.gather():
            if source.augmentation:
                open_rewording(source.augmentation, task)
        for split, path in paths_of(source).items():
            files[split], rows[split] = _read(path, check_rows(path, task, source, split))
        with choice.gather():
            try:
                used = choose(rows, source.limit, lambda row: owner_of(row[1], task, source.group_by), key)
            except DataError as error:
                raise DataError(f"Task {name}: {error}") from None
    wrong = any(file.refusal(name) for file in files.values())
    return TaskRows(files, used, (*table.found, *(() if wrong else choice.found)))


def check_labels(source: Data, task: Task) -> None:
    """Raise ConfigError unless the labels that a site's file names are the federation's."""
    for key, labels in (("annotates", source.annotates or ()), ("rename", source.rename.values())):
        if unknown := sorted(set(labels) - set(task.labels)):
            raise ConfigError(
                f"Expected data.{task.name}.{key} to name labels among the federation's {listed(task.labels)}, but "
                f"{listed(unknown)} are not."
            )
    if source.annotates is not None and not task.outputs():
        raise ConfigError(f"Task {task.name} cannot be annotated in part; remove data.{task.name}.annotates.")


def mark_known(examples: Sequence[Example], task: Task, annotates: Sequence[str] | None) -> list[Example]:
    """The examples, each target saying which of the head's outputs stand for labels that the site annotates."""
    if annotates is None:
        return list(examples)
    known = tuple(label is None or label in annotates for label in task.outputs())
    return [replace(e, target={**e.target, "known": known}) if e.target else e for e in examples]


def rows_of(
    path: Path, task: Task, source: Data | None = None, split: Split = "train"
) -> Iterator[tuple[Place, Record | BadRow]]:
    """Yield the rows of a source as records of a task, not checked yet; arguments and DataError as `check_rows`."""
    how = source or AS_IT_IS
    kind = how.kind_of(path)
    documents = kind is not None and READERS[kind].documents
    for place, row in scan_rows(path, task.lists, how, split):
        if isinstance(row, BadRow) or not documents:
            yield place, row
            continue
        try:
            yield from ((place, record) for record in records_of(row, task, how.annotations))
        except ValueError as error:
            yield place, BadRow(str(error))


def check_rows(
    path: Path, task: Task, source: Data | None = None, split: Split = "train"
) -> Iterator[tuple[Place, Record | BadRow]]:
    """Yield place and record, checked by `task`, or what is wrong with it; DataError if there is no reading.

    Args:
        path: The source.
        task: Whose records they are.
        source: How it is read, and how its labels become the federation's; None if nothing need be said.
        split: Which split is read.
    """
    for place, row in rows_of(path, task, source, split):
        if isinstance(row, BadRow):
            yield place, row
            continue
        try:
            record = task.relabel(row, source.rename if source else {}, source.scheme if source else "BIO")
            task.check(record)
            _check_annotated(record, task, source)
            if source and source.group_by:
                owner_of(record, task, source.group_by)
        except ValueError as error:
            yield place, BadRow(f"{error}{other_column(str(error), row, source)}")
        else:
            yield place, record


def input_of(record: Record, task: Task) -> Record:
    """A record without labels and null fields; ValueError says what is wrong with the rest."""
    kept = {key: value for key, value in record.items() if value is not None and key not in task.targets}
    task.check_input(kept)
    return kept


def other_column(error: str, row: Record, source: Data | None = None) -> str:
    """A hint where the field that an error misses is called otherwise in the file."""
    if "'tokens'" in error and "tokens" not in row and isinstance(row.get("text"), str):
        return '; if it is an export of a tool for annotation, say of which, such as format = "doccano"'
    for field in re.findall(r"'(\w+)'", error):
        if source and field in source.columns and field not in row:
            return f"; `columns` has it stand in {source.columns[field]!r}, but there are only {listed(sorted(row))}"
        alike = [name for name in row if name.strip().casefold() == field.casefold() != name]
        if field not in row and alike:
            return f"; its column is called {alike[0]!r}, so rename it to {field!r}"
    return ""


def read_records(path: Path, task: Task, source: Data | None = None, split: Split = "train") -> list[Record]:
    """All records of a file, as `check_rows` yields them; DataError lists the bad rows together."""
    file, rows = _read(path, check_rows(path, task, source, split))
    if refusal := file.refusal(task.name):
        raise DataError(refusal, file.unquoted(task.name))
    return [record for _, record in rows]


def paths_of(source: Data) -> dict[Split, Path]:
    """The files that an institution names for a task."""
    paths: dict[Split, Path | None] = {"train": source.train, "validation": source.validation, "test": source.test}
    return {split: path for split, path in paths.items() if path}


def _read(path: Path, rows: Iterator[tuple[Place, Record | BadRow]]) -> tuple[FileReport, list[Row]]:
    """The rows sorted into good and bad ones; where reading breaks off, what was read up to there."""
    good: list[Row] = []
    bad: list[tuple[Place, BadRow]] = []
    broken = None
    try:
        for number, row in rows:
            if isinstance(row, BadRow):
                bad.append((number, row))
            else:
                good.append((number, row))
    except DataError as error:
        broken = str(error)
    return FileReport(path, len(good) + len(bad), tuple(bad), broken), good


def _encode(
    records: list[Record],
    task: Task,
    tokenizer: "PreTrainedTokenizerFast",
    max_length: int,
    annotates: tuple[str, ...] | None,
) -> TaskData:
    examples = mark_known(task.encode(records, tokenizer, max_length), task, annotates)
    return TaskData(tuple(records), tuple(examples), annotates)


def _check_annotated(record: Record, task: Task, source: Data | None) -> None:
    if source and source.annotates is not None:
        for label in task.labels_of(record):
            if label not in source.annotates:
                raise ValueError(f"label {label!r} is not among those that annotates names: {listed(source.annotates)}")
