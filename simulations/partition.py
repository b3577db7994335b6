"""Splitting one data set over virtual institutions, evenly at random, by label, or by a field of the records.

`dirichlet` draws, for every label, the shares of its records that the institutions get from a symmetric Dirichlet
distribution (Yurochkin et al. 2019, arXiv 1905.12022, section 4; Hsu et al. 2019, arXiv 1909.06335, draw each
institution's mix of labels instead). With a large alpha every institution has the labels in the same proportions, with
a small one most of a label lies at one institution. Where institutions outnumber labels, a small alpha leaves many of
them with next to nothing: those below `least` are filled up with random records of whoever has most at that moment.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from client.data.holdout import keep, key_of_seed
from client.data.identity import normalise, owner_of
from client.data.loading import paths_of, read_records
from client.institution import Data
from shared.config import Model
from shared.errors import ConfigError, DataError, joined, listed
from shared.fields import Split
from shared.tasks import Record, Task

MOST = 1_000
"""Institutions in one process."""
Rows = Sequence[int]
"""Places of records in their split."""


class Partition(Model):
    """How the records of one task are split."""

    data: Data
    """The whole data set, with the keys of `[data.TASK]` in institution.toml; `limit` holds before the split."""
    institutions: Annotated[int, Field(ge=2, le=MOST)]
    """They are called site-01, site-02, ...; the same ones for every task that is split."""
    kind: Literal["iid", "dirichlet", "by"]
    """`iid`: evenly at random. `dirichlet`: by label. `by`: records of one value of `field` stay together."""
    alpha: Annotated[float, Field(ge=1e-3, le=1e6)] | None = None
    """Of `dirichlet`: 0.1 is strong skew, 100 nearly none."""
    field: Annotated[str, Field(min_length=1)] | None = None
    """Of `by`: what names a record's document, patient or author."""
    least: Annotated[int, Field(ge=1)] = 10
    """Fewest training records of an institution."""
    common_test: bool = True
    """The first institution holds all test records, which are so scored once and as a whole.

    If false, they are split like the others, which are the training and validation records: for methods under which
    institutions keep parts of the model at home.
    """
    seed: Annotated[int, Field(ge=0)] = 13
    """Decides who gets which records, and which of them `data.limit` takes."""

    @model_validator(mode="after")
    def _kinds(self) -> Self:
        for kind, name in (("dirichlet", "alpha"), ("by", "field")):
            if (self.kind == kind) != (getattr(self, name) is not None):
                raise ValueError(f"{name} must be given with kind {kind!r}, and only then")
        return self


def site_names(number: int) -> list[str]:
    """What virtual institutions are called."""
    return [f"site-{i:02d}" for i in range(1, number + 1)]


def partition(split: Partition, task: Task, folder: Path, announce: Callable[[str], None]) -> dict[str, Data]:
    """Write every institution's share to files of its own.

    Args:
        split: How, with absolute paths.
        task: Whose records they are.
        folder: Where the files go.
        announce: Told what every institution holds.

    Returns:
        By institution, its data.

    Raises:
        ConfigError: The task has no labels to split by, or there are too few records for so many institutions.
        DataError: A file or a record is wrong, or lacks `field`.
    """

    def owner(record: Record) -> str:
        return owner_of(record, task, split.data.group_by)

    rng = np.random.default_rng(split.seed)
    held: dict[Split, list[Record]] = {
        name: keep(read_records(path, task, split.data, name), split.data.limit, owner, key_of_seed(split.seed))
        for name, path in paths_of(split.data).items()
    }
    shares = assign(split, task, held, rng)
    names = site_names(split.institutions)
    for name, share in zip(names, shares, strict=True):
        announce(f"{name}: {_described(task, held['train'], share['train'])}")
    return {name: _written(split.data, held, share, folder / name) for name, share in zip(names, shares, strict=True)}


def assign(
    split: Partition, task: Task, held: Mapping[Split, Sequence[Record]], rng: np.random.Generator
) -> list[dict[Split, Rows]]:
    """Which records of each split an institution gets; every record goes to exactly one.

    Args:
        split: How.
        task: Whose records they are.
        held: The records of each split.
        rng: Where chance comes from.

    Raises:
        ConfigError: As `partition`.
        DataError: A record lacks `field`.
    """
    number, records = split.institutions, len(held["train"])
    if records < number * split.least:
        raise ConfigError(
            f"Expected at least {number * split.least} training records of {task.name} for {number} institutions with "
            f"{split.least} each, but {records} came; lower partition.{task.name}.institutions or .least."
        )
    if split.kind == "iid":
        owners = {name: rng.permutation(np.arange(len(rows)) % number) for name, rows in held.items()}
    elif split.kind == "dirichlet":
        owners = _by_label(split, task, held, rng)
    else:
        owners = _by_field(split, task, held, rng)
    if split.common_test and "test" in owners:
        owners["test"][:] = 0
    return [{name: np.flatnonzero(of == i).tolist() for name, of in owners.items()} for i in range(number)]


def stratum(task: Task, record: Record) -> str:
    """The label that a record bears most often, the first of those that it does; empty if it bears none."""
    labels = Counter(task.labels_of(record)).most_common(1)
    return labels[0][0] if labels else ""


def _by_label(
    split: Partition, task: Task, held: Mapping[Split, Sequence[Record]], rng: np.random.Generator
) -> dict[Split, np.ndarray]:
    """The institution of every record, by its label."""
    if not task.labels:
        raise ConfigError(
            f"Expected a task with labels for a partition of kind 'dirichlet', but {task.name} has none; "
            f"choose 'iid' or 'by' for partition.{task.name}.kind."
        )
    number = split.institutions
    labels = (*task.labels, "")
    bounds = np.cumsum(rng.dirichlet([split.alpha or 1.0] * number, size=len(labels)), axis=1)[:, :-1]
    owners: dict[Split, np.ndarray] = {}
    for name, records in held.items():
        strata = np.array([labels.index(stratum(task, record)) for record in records])
        owners[name] = np.zeros(len(records), int)
        for label in range(len(labels)):
            rows = rng.permutation(np.flatnonzero(strata == label))
            places = np.arange(len(rows)) + 0.5
            owners[name][rows] = np.searchsorted(bounds[label] * len(rows), places)
    _fill_up(owners["train"], number, split.least, rng)
    return owners


def _fill_up(owners: np.ndarray, number: int, least: int, rng: np.random.Generator) -> None:
    """Give every institution below `least` random records of whoever has most at that moment, in place."""
    counts = np.bincount(owners, minlength=number)
    for poor in np.flatnonzero(counts < least):
        while counts[poor] < least:
            rich = int(np.argmax(counts))
            owners[rng.choice(np.flatnonzero(owners == rich))] = poor
            counts[poor] += 1
            counts[rich] -= 1


def _by_field(
    split: Partition, task: Task, held: Mapping[Split, Sequence[Record]], rng: np.random.Generator
) -> dict[Split, np.ndarray]:
    """The institution of every record, by its field: each value goes to whoever has fewest records at that moment."""
    number, owner_of = split.institutions, dict[str, int]()
    owners: dict[Split, np.ndarray] = {}
    for name, records in held.items():
        values = [_value(split, task, name, record) for record in records]
        sizes = Counter(values)
        counts = np.zeros(number, int)
        for value, size in sizes.items():
            if value in owner_of:
                counts[owner_of[value]] += size
        new = sorted(value for value in sizes if value not in owner_of)
        for place in rng.permutation(len(new)):
            owner_of[new[place]] = int(np.argmin(counts))
            counts[owner_of[new[place]]] += sizes[new[place]]
        owners[name] = np.array([owner_of[value] for value in values])
    fewest = np.bincount(owners["train"], minlength=number).min()
    if fewest < split.least:
        raise ConfigError(
            f"Expected at least {split.least} training records of {task.name} at each of {number} institutions, but "
            f"whole values of {split.field!r} leave one with {fewest}; lower partition.{task.name}.institutions or "
            ".least."
        )
    return owners


def _value(split: Partition, task: Task, name: Split, record: Record) -> str:
    try:
        return normalise(record.get(split.field or ""))
    except ValueError as error:
        raise DataError(
            f"Expected {split.field!r} in every {name} record of {task.name} that partition.{task.name} splits by it, "
            f"but {error} in one of only {listed(sorted(record))}; name another field."
        ) from None


def _described(task: Task, records: Sequence[Record], rows: Rows) -> str:
    line = f"{len(rows)} training records of {task.name}"
    if not task.labels:
        return line
    borne = Counter(stratum(task, records[row]) for row in rows)
    return line + ": " + joined(f"{label or 'no label'} {n}" for label, n in borne.most_common())


def _written(source: Data, held: Mapping[Split, Sequence[Record]], share: Mapping[Split, Rows], stem: Path) -> Data:
    """An institution's share in files; labels are the federation's by now. A split without records has no file."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path | None] = {"train": None, "validation": None, "test": None}
    for name, rows in share.items():
        if rows:
            files[name] = path = stem.with_name(f"{stem.name}.{name}.jsonl")
            path.write_text("".join(json.dumps(held[name][row], default=str) + "\n" for row in rows), encoding="utf-8")
    return source.as_written(**files).model_copy(update={"limit": None, "rename": {}, "scheme": "BIO"})
