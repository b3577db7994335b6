"""From an institution's files to checked and encoded records: every bad row is named, none is dropped."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from client.data.holdout import choose
from client.data.identity import owner_of
from client.data.sources import BadRow, scan_rows
from client.institution import Data
from shared.errors import ConfigError, DataError
from shared.protocol import Split
from shared.tasks import Example, Record, Task

SHOWN = 5
"""Bad rows spelt out in one error."""


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
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    key: bytes,
) -> dict[str, dict[Split, TaskData]]:
    """Read, check and encode everything an institution holds, per task and split.

    Args:
        data: Where it lies.
        tasks: The federation's.
        tokenizer: The backbone's.
        max_length: Longest input in sub-tokens.
        key: Decides who is held out, and who is left out by `limit` (`client.data.holdout`).

    Raises:
        ConfigError: A task is not in the federation, or labels that a site says it annotates or renames are not.
        DataError: A file is missing or empty, or rows are wrong; names file, lines and what is wrong.
    """
    if unknown := sorted(data.keys() - tasks.keys()):
        raise ConfigError(
            f"Expected the tasks under [data] to be among the federation's {sorted(tasks)}, but {unknown} are not."
        )
    for name, source in data.items():
        check_labels(source, tasks[name])
    return {
        name: {
            split: _encode(records, tasks[name], tokenizer, max_length, source.annotates)
            for split, records in _read_splits(source, tasks[name], key).items()
        }
        for name, source in data.items()
    }


def check_labels(source: Data, task: Task) -> None:
    """Raise ConfigError unless the labels that a site's file names are the federation's."""
    for key, labels in (("annotates", source.annotates or ()), ("rename", source.rename.values())):
        if unknown := sorted(set(labels) - set(task.labels)):
            raise ConfigError(
                f"Expected data.{task.name}.{key} to name labels among the federation's {list(task.labels)}, but "
                f"{unknown} are not."
            )
    if source.annotates is not None and not task.outputs():
        raise ConfigError(f"Task {task.name} cannot be annotated in part; remove data.{task.name}.annotates.")


def mark_known(examples: Sequence[Example], task: Task, annotates: Sequence[str] | None) -> list[Example]:
    """The examples, each target saying which of the head's outputs stand for labels that the site annotates."""
    if annotates is None:
        return list(examples)
    known = tuple(label is None or label in annotates for label in task.outputs())
    return [replace(e, target={**e.target, "known": known}) if e.target else e for e in examples]


def check_rows(path: Path, task: Task, source: Data | None = None) -> Iterator[tuple[int, Record | BadRow]]:
    """Yield line number and record, checked by `task`, or what is wrong with it; DataError if there is no reading.

    Args:
        path: The file.
        task: Whose records they are.
        source: How the file's labels become the federation's; None if they are spelt like those.
    """
    for number, row in scan_rows(path, task.lists):
        if isinstance(row, BadRow):
            yield number, row
            continue
        try:
            record = task.relabel(row, source.rename if source else {}, source.scheme if source else "BIO")
            task.check(record)
            _check_annotated(record, task, source)
            if source and source.group_by:
                owner_of(record, task, source.group_by)
        except ValueError as error:
            yield number, BadRow(f"{error}{_other_column(str(error), row)}")
        else:
            yield number, record


def check_inputs(path: Path, task: Task) -> Iterator[tuple[int, Record | BadRow]]:
    """As `check_rows`, but of what the model reads alone, for prediction: labels are left out, right or wrong."""
    for number, row in scan_rows(path, [name for name in task.lists if name not in task.targets]):
        if isinstance(row, BadRow):
            yield number, row
            continue
        try:
            record = input_of(row, task)
        except ValueError as error:
            yield number, BadRow(f"{error}{_other_column(str(error), row)}")
        else:
            yield number, record


def input_of(record: Record, task: Task) -> Record:
    """A record without labels and null fields; ValueError says what is wrong with the rest."""
    kept = {key: value for key, value in record.items() if value is not None and key not in task.targets}
    task.check_input(kept)
    return kept


def _other_column(error: str, row: Record) -> str:
    """A hint where the field that an error misses has another case or spaces around it in the file."""
    for field in re.findall(r"'(\w+)'", error):
        alike = [name for name in row if name.strip().casefold() == field.casefold() != name]
        if field not in row and alike:
            return f"; its column is called {alike[0]!r}, so rename it to {field!r}"
    return ""


def read_records(path: Path, task: Task, source: Data | None = None) -> list[Record]:
    """All records of a file, as `check_rows` yields them; DataError lists the bad rows together."""
    records = _all_good(path, task, check_rows(path, task, source))
    if not records:
        raise DataError(f"Expected records of task {task.name} in {path}, but the file is empty.")
    return records


def read_inputs(path: Path, task: Task) -> list[Record]:
    """What there is to predict in a file, as `check_inputs` yields it, maybe nothing; errors as `read_records`."""
    return _all_good(path, task, check_inputs(path, task))


def _all_good(path: Path, task: Task, rows: Iterator[tuple[int, Record | BadRow]]) -> list[Record]:
    records: list[Record] = []
    bad: list[str] = []
    for number, row in rows:
        if isinstance(row, BadRow):
            bad.append(f"line {number}: {row.what}")
        else:
            records.append(row)
    if bad:
        more = f"; and {len(bad) - SHOWN} more bad rows" if len(bad) > SHOWN else ""
        raise DataError(f"{path} (task {task.name}): {'; '.join(bad[:SHOWN])}{more}.")
    return records


def paths_of(source: Data) -> dict[Split, Path]:
    """The files that an institution names for a task."""
    paths: dict[Split, Path | None] = {"train": source.train, "validation": source.validation, "test": source.test}
    return {split: path for split, path in paths.items() if path}


def _read_splits(source: Data, task: Task, key: bytes) -> dict[Split, list[Record]]:
    files = {split: read_records(path, task, source) for split, path in paths_of(source).items()}
    try:
        return choose(files, source.limit, lambda record: owner_of(record, task, source.group_by), key)
    except DataError as error:
        raise DataError(f"Task {task.name}: {error}") from None


def _encode(
    records: list[Record],
    task: Task,
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    annotates: tuple[str, ...] | None,
) -> TaskData:
    examples = mark_known(task.encode(records, tokenizer, max_length), task, annotates)
    return TaskData(tuple(records), tuple(examples), annotates)


def _check_annotated(record: Record, task: Task, source: Data | None) -> None:
    if source and source.annotates is not None:
        for label in task.labels_of(record):
            if label not in source.annotates:
                raise ValueError(f"label {label!r} is not among those that annotates names: {list(source.annotates)}")
