"""The text readiness report: what an institution's files hold, measured before anybody trains on it.

Nothing here raises because of what the data are: a bad row or file is counted, and the survey goes on. Of a task's
records it looks at those that training would use, as `client.data.holdout` chooses them.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from transformers import PreTrainedTokenizerFast

from client.data.identity import hash_record, owner_of
from client.data.loading import FileReport, Row, read_task
from client.data.quality import troubles_of
from client.data.sources import Place
from client.institution import Data
from shared.fields import Split
from shared.tasks import Record, Task

MEASURED = 2000
"""Most records of a split whose length is measured, a fixed random choice; all else is counted over all records."""
MEASURED_CHARACTERS = 4_000_000
"""Most characters that they have together, so that long documents take no longer than a few seconds."""
MEASURED_SEED = 13
UNBOUNDED = 10**6
"""An input length, in sub-tokens, into which every record fits."""


@dataclass(frozen=True)
class Lengths:
    """Lengths in sub-tokens, special ones included, of what one record gives the model to read at once."""

    measured: int
    """Records that were measured."""
    shortest: int
    median: float
    p95: float
    longest: int
    cut: int
    """Measured records that lose what does not fit."""
    windowed: int
    """Measured records that are read in several windows, losing nothing or little."""


@dataclass(frozen=True)
class SplitReport:
    """The records of one split."""

    records: int
    duplicates: int
    """Records that repeat the texts of an earlier one exactly."""
    contradictions: int
    """Those of them whose labels are others."""
    overlap: int
    """Records that are also in train (`client.data.identity`); 0 for train itself."""
    non_ascii: int
    """Records with a character beyond ASCII."""
    labels: Mapping[str, int]
    """How often each label occurs."""
    unlabelled: int
    """Records that bear no label, such as a sentence without entities."""
    lengths: Lengths | None
    """None where there is no record."""
    troubles: Mapping[str, tuple[Place, ...]]
    """Kind of trouble (see `client.data.quality`), and the lines or rows that have it."""


@dataclass(frozen=True)
class TaskReport:
    """All files and splits of one task; a split held out of train has no file of its own."""

    labels: tuple[str, ...]
    """Those of the federation's that the institution annotates."""
    max_length: int
    splits: Mapping[Split, SplitReport]
    files: Mapping[Split, FileReport] = field(default_factory=dict)
    refused: str | None = None
    """Why nothing was used: what is wrong with the task's table in institution.toml, or with what it chooses."""
    owners: Mapping[Split, "OwnersReport"] = field(default_factory=dict)
    """Empty without `group_by`."""
    trained: int = 0
    """Owners of train; without `group_by`, records that are not the same."""


@dataclass(frozen=True)
class OwnersReport:
    """Whose the records of one split are."""

    owners: int
    trained: tuple[str, ...]
    """Those of them who are in train too, of whichever task, as `client.data.identity` spells them; none of train."""


Report = Mapping[str, TaskReport]


def survey(
    data: Mapping[str, Data],
    tasks: Mapping[str, Task],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    key: bytes,
    *,
    private: bool = False,
) -> dict[str, TaskReport]:
    """Read and examine everything that an institution holds.

    Args:
        data: Where it lies.
        tasks: The federation's.
        tokenizer: The backbone's.
        max_length: Longest input in sub-tokens.
        key: The site's, by which records are held out.
        private: Whether the federation has [privacy].
    """
    report: dict[str, TaskReport] = {}
    used: dict[str, dict[Split, list[Row]]] = {}
    for name, source in data.items():
        read = read_task(name, source, tasks, key, private=private)
        refused = " ".join(map(str, read.refused)) or None
        if refused or not read.used:
            report[name] = TaskReport((), max_length, {}, read.files, refused=refused)
            continue
        used[name] = read.used
        trained = len(set(map(_owner_in(source, tasks[name]), read.used["train"])))
        found = examine(tasks[name], read.used, tokenizer, max_length, read.files, source.annotates)
        report[name] = replace(found, trained=trained)
    owners = _examine_owners(data, tasks, used)
    return {name: replace(task, owners=owners.get(name, {})) for name, task in report.items()}


def examine(
    task: Task,
    splits: Mapping[Split, Sequence[Row]],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    files: Mapping[Split, FileReport] | None = None,
    annotates: tuple[str, ...] | None = None,
) -> TaskReport:
    """Measure the records of one task, all of which `task.check` accepts.

    Args:
        task: The task.
        splits: Per split its records, with the numbers by which the report names them.
        tokenizer: The backbone's.
        max_length: Longest input in sub-tokens.
        files: What reading the files showed, if they have been read.
        annotates: The labels that the institution annotates; None if all.
    """
    trained = {hash_record(record, task) for _, record in splits.get("train", ())}
    reports = {
        split: _examine_split(task, rows, tokenizer, max_length, frozenset() if split == "train" else trained)
        for split, rows in splits.items()
    }
    return TaskReport(task.labels if annotates is None else annotates, max_length, reports, files or {})


def summary(report: Report) -> dict[str, dict[str, float]]:
    """Per task what may go to the coordinator: numbers only, no text, no label, no path; rates are in [0, 1]."""
    return {name: _summarise(task) for name, task in report.items()}


def _summarise(task: TaskReport) -> dict[str, float]:
    splits = task.splits.values()
    train = task.splits.get("train")
    lengths = [split.lengths for split in splits if split.lengths]
    measured = sum(each.measured for each in lengths)
    records = sum(split.records for split in splits)
    numbers: dict[str, float] = {
        "rows": sum(file.rows for file in task.files.values()) if task.files else records,
        "bad_rows": sum(len(file.bad) for file in task.files.values()),
        "duplicate_rate": share(sum(split.duplicates for split in splits), records),
        "cut_rate": share(sum(each.cut for each in lengths), measured),
        "windowed_rate": share(sum(each.windowed for each in lengths), measured),
        "troubled_rate": share(sum(len({n for rows in s.troubles.values() for n in rows}) for s in splits), records),
    }
    for name in ("validation", "test"):
        if split := task.splits.get(name):
            numbers[f"{name}_overlap_rate"] = share(split.overlap, split.records)
    if train and train.lengths:
        numbers |= {"median_length": train.lengths.median, "p95_length": train.lengths.p95}
    if train and task.labels:
        numbers["labels_without_record"] = len(set(task.labels) - train.labels.keys())
        if len(task.labels) > 1:
            numbers["majority_share"] = majority_share(train)
    return {name: float(number) for name, number in numbers.items()}


def majority_share(split: SplitReport) -> float:
    """The most frequent label's share of all labels; 0 where there are none."""
    return share(max(split.labels.values(), default=0), sum(split.labels.values()))


def share(part: float, whole: float) -> float:
    """`part / whole`; 0 of nothing."""
    return part / whole if whole else 0.0


def _owner_in(source: Data, task: Task) -> Callable[[Row], str]:
    return lambda row: owner_of(row[1], task, source.group_by)


def _examine_owners(
    data: Mapping[str, Data], tasks: Mapping[str, Task], used: Mapping[str, Mapping[Split, Sequence[Row]]]
) -> dict[str, dict[Split, OwnersReport]]:
    """Per task with owners, and per split."""
    owners = {
        name: {split: set(map(_owner_in(data[name], tasks[name]), rows)) for split, rows in splits.items()}
        for name, splits in used.items()
        if data[name].group_by
    }
    trained = set[str]().union(*(splits["train"] for splits in owners.values()))
    return {
        name: {
            split: OwnersReport(len(own), () if split == "train" else tuple(sorted(own & trained)))
            for split, own in splits.items()
        }
        for name, splits in owners.items()
    }


def _examine_split(
    task: Task,
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    trained: set[str] | frozenset[str],
) -> SplitReport:
    seen: dict[tuple[str, ...], list[str]] = {}
    duplicates = contradictions = overlap = non_ascii = unlabelled = 0
    labels: Counter[str] = Counter()
    troubles: dict[str, list[Place]] = {}
    for number, record in rows:
        texts, own = task.texts_of(record), task.labels_of(record)
        labels.update(own)
        unlabelled += not own
        non_ascii += not all(text.isascii() for text in texts)
        overlap += bool(trained) and hash_record(record, task) in trained
        for kind in troubles_of(texts):
            troubles.setdefault(kind, []).append(number)
        first = seen.setdefault(tuple(texts), own)
        if first is not own:
            duplicates += 1
            contradictions += sorted(first) != sorted(own)
    return SplitReport(
        records=len(rows),
        duplicates=duplicates,
        contradictions=contradictions,
        overlap=overlap,
        non_ascii=non_ascii,
        labels=dict(labels),
        unlabelled=unlabelled,
        lengths=_measure(task, [record for _, record in rows], tokenizer, max_length) if rows else None,
        troubles={kind: tuple(numbers) for kind, numbers in troubles.items()},
    )


def _measure(task: Task, records: Sequence[Record], tokenizer: PreTrainedTokenizerFast, max_length: int) -> Lengths:
    """Encode without a bound, and what is too long with it: more examples are windows, as many have been cut."""
    order = np.random.default_rng(MEASURED_SEED).permutation(len(records))[:MEASURED].tolist()
    characters = np.cumsum([sum(map(len, task.texts_of(records[i]))) for i in order])
    affordable = max(1, int(np.searchsorted(characters, MEASURED_CHARACTERS, side="right")))
    records = [records[i] for i in order[:affordable]]
    whole = _lengths_of(task, records, tokenizer, UNBOUNDED)
    longest = [max(lengths, default=0) for lengths in whole]
    too_long = [i for i, length in enumerate(longest) if length > max_length]
    bounded = _lengths_of(task, [records[i] for i in too_long], tokenizer, max_length)
    windowed = sum(len(rows) > len(whole[i]) for i, rows in zip(too_long, bounded, strict=True))
    median, p95 = np.percentile(longest, [50, 95]).tolist()
    return Lengths(len(records), min(longest), median, p95, max(longest), len(too_long) - windowed, windowed)


def _lengths_of(
    task: Task, records: Sequence[Record], tokenizer: PreTrainedTokenizerFast, bound: int
) -> list[list[int]]:
    """Per record the lengths of its examples."""
    lengths: list[list[int]] = [[] for _ in records]
    for example in task.encode(records, tokenizer, bound):
        lengths[example.record].append(len(example))
    return lengths
