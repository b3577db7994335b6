"""Which data a budget belongs to: the marks of its owners and records, by which another version is known again."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from client.data.identity import sha256


@dataclass(frozen=True)
class Dataset:
    """One version of the data that are trained on, as the ledger knows it: no text and no key, only SHA-256s."""

    fingerprint: str
    """Of all records, their owners and the owner column, whatever the order; 64 hex digits."""
    owner_column: str | None
    """The column that names each record's owner; None where every record stands for itself."""
    owners: int
    marks: frozenset[str]
    """SHA-256 of each owner's name, where there is an owner column, and of each record, both as `client.data.identity`
    spells them.

    Two data sets that share one mark hold the same owner or the same record: what one has spent, the other has too.
    """
    legacy: bool = False
    """Marked by raw fields, before owners and records had one spelling: what it contains can no longer be compared."""

    def may_share(self, other: "Dataset") -> bool:
        """Whether an owner or a record may stand in both."""
        return self.legacy != other.legacy or not self.marks.isdisjoint(other.marks)


def describe_dataset(records: Mapping[str, Iterable[str]], owner_column: str | None) -> Dataset:
    """The data set in which each owner holds the given records.

    An owner's mark does not depend on the column's name, so renaming the column gives no new budget; and records are
    marked too, so neither does naming an owner column, or dropping it.

    Args:
        records: `client.data.identity.hash_texts` of every record, under its owner (any name without owner column).
        owner_column: The column that names owners, if there is one.
    """
    by_owner = {owner: sorted(hashes) for owner, hashes in records.items()}
    marks = {mark for hashes in by_owner.values() for mark in hashes}
    if owner_column is None:
        content: list[Any] = sorted(by_owner.values())
    else:
        content = sorted([sha256(f"owner {owner}"), hashes] for owner, hashes in by_owner.items())
        marks.update(mark for mark, _ in content)
    fingerprint = sha256(json.dumps([owner_column, content]))
    return Dataset(fingerprint, owner_column, len(by_owner), frozenset(marks))
