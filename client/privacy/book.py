"""What the entries of a ledger say: data sets, what was reserved on them, and what of that was taken.

Kinds of entries, after the first: `data` (a data set), `reserve` (steps of a mechanism on a data set, named by the
number of its entry), `commit` (a reservation, and the steps it took), `approve` (a data set that the operator lets
begin a budget of its own), `scored` (a data set whose records are scored, not trained on), `format` (what the file has
been brought up to), `adopt` (all entries of another ledger of this institution, which count here from now on), `moved`
(this ledger has been taken into another one, and ends). `dataset` is a data set as it was marked before owners and
records had one spelling; it is not written any more, and what it has spent counts for every data set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from client.hashchain import Head
from client.privacy.accounting import Mechanism
from client.privacy.chain import Entry
from client.privacy.dataset import Dataset
from shared.errors import BudgetError

Use = Literal["training", "validation", "test"]
"""What records are used for; each has a budget of its own, and who is in several spends of several."""


@dataclass(frozen=True)
class Charge:
    """A reservation as it counts now: by the steps taken once it is settled, in full until then."""

    dataset: int
    """The number of its data set's entry."""
    mechanism: Mechanism
    open: bool
    use: Use = "training"
    entry: str = ""
    """SHA-256 of the reservation, by which a copy of it in another ledger is known."""


@dataclass
class Book:
    """All data sets and charges, by the numbers of their entries; those of adopted ledgers have negative ones."""

    datasets: dict[int, Dataset] = field(default_factory=dict)
    scored: dict[int, Dataset] = field(default_factory=dict)
    """Those whose records are only scored, beside `datasets`, those that are trained on."""
    charges: dict[int, Charge] = field(default_factory=dict)
    approved: set[int] = field(default_factory=set)
    heads: set[Head] = field(default_factory=set)
    """Of every entry of the ledgers that were adopted."""
    moved: str | None = None
    """The ledger that has taken this one in, if one has."""

    def add(self, entry: Entry) -> None:
        """Take in one entry; ValueError, TypeError, KeyError or BudgetError if it does not follow from the others."""
        body = entry.body
        if entry.kind in ("data", "dataset", "scored"):
            fields = body["fingerprint"], body["owner_column"], body["owners"], frozenset(body["marks"])
            known = self.scored if entry.kind == "scored" else self.datasets
            known[entry.sequence] = Dataset(*fields, legacy=entry.kind == "dataset")
        elif entry.kind == "reserve":
            use = _use(body)
            if body["dataset"] not in self.known(use):
                raise ValueError(f"there is no data set {body['dataset']}")
            mechanism = Mechanism(body["noise_multiplier"], body["sampling_rate"], body["steps"])
            self.charges[entry.sequence] = Charge(body["dataset"], mechanism, open=True, use=use, entry=entry.sha256)
        elif entry.kind == "commit":
            charge = self.charge_to_settle(body["reserve"], body["steps"])
            taken = replace(charge.mechanism, steps=body["steps"])
            self.charges[body["reserve"]] = replace(charge, mechanism=taken, open=False)
        elif entry.kind == "approve":
            self.approved.add(self.number_to_approve(body["dataset"]))
        elif entry.kind == "adopt":
            self._adopt([Entry(number, *each) for number, each in enumerate(body["entries"])])
        elif entry.kind == "moved":
            self.moved = str(body["to"])
        elif entry.kind != "format":  # `client.privacy.chain` has read it
            raise ValueError(f"its kind is {entry.kind!r}")

    def charge_to_settle(self, reserved: int, steps: int) -> Charge:
        """The open charge of a reservation that may be settled by so many steps; BudgetError otherwise."""
        charge = self.charges.get(reserved)
        if charge is None or not charge.open:
            raise BudgetError(
                f"Expected entry {reserved} of the privacy ledger to be a reservation that is not settled, but it is "
                f"{'none' if charge is None else 'settled'}; reserve again before training."
            )
        if not 0 <= steps <= charge.mechanism.steps:
            raise BudgetError(
                f"Expected at most the {charge.mechanism.steps} steps that entry {reserved} of the privacy ledger "
                f"reserved, but {steps} were taken; the update must not leave."
            )
        return charge

    def _adopt(self, entries: Sequence[Entry]) -> None:
        """Count what another ledger has counted; what both have, of which one was a copy, counts once."""
        other = read_book(entries)
        self.heads |= other.heads | {entry.head for entry in entries}
        place = {number: self._free(i) for i, number in enumerate([*other.datasets, *other.scored])}
        for use in ("training", "validation"):
            self.known(use).update({place[number]: dataset for number, dataset in other.known(use).items()})
        self.approved |= {place[number] for number in other.approved}
        mine = {charge.entry for charge in self.charges.values()}
        for charge in other.charges.values():
            if charge.entry not in mine:
                self.charges[self._free(0)] = replace(charge, dataset=place[charge.dataset])

    def _free(self, further: int) -> int:
        """A number that no entry has; the same whenever the entries are read."""
        return min([0, *self.datasets, *self.scored, *self.charges]) - 1 - further

    def known(self, use: Use) -> dict[int, Dataset]:
        """The data sets for one use, by number."""
        return self.datasets if use == "training" else self.scored

    def number_of(self, dataset: Dataset, use: Use = "training") -> int | None:
        """The number of this very data set's entry, if it has one."""
        return next((number for number, each in self.known(use).items() if each == dataset), None)

    def related(self, dataset: Dataset, use: Use = "training") -> set[int]:
        """The data sets, for one use, that may share an owner or a record with this one, by number."""
        known = self.known(use)
        return {number for number, each in known.items() if each == dataset or each.may_share(dataset)}

    def counted(self, dataset: Dataset, use: Use = "training") -> list[Charge]:
        """The charges for one use, of all data sets that may share an owner or a record with this one."""
        related = self.related(dataset, use)
        return [charge for charge in self.charges.values() if charge.dataset in related and charge.use == use]

    def is_new(self, dataset: Dataset) -> bool:
        """Whether its budget would begin at nothing although another data set has one: it shares nothing with any.

        The first data set of a ledger is not new; one that was trained on, or that the operator approved, is known.
        """
        known = self.approved | {charge.dataset for charge in self.charges.values() if charge.use == "training"}
        return bool(known) and known.isdisjoint(self.related(dataset))

    def number_to_approve(self, number: int) -> int:
        """The number of a data set's entry that may be approved; BudgetError if it is none, or known already."""
        if number not in self.datasets or not self.is_new(self.datasets[number]):
            raise BudgetError(
                f"Expected entry {number} of the privacy ledger to be a data set that waits to be approved, but it is "
                f"{'one that may be trained on' if number in self.datasets else 'none'}; `collegium client ledger` "
                "lists them."
            )
        return number


def _use(body: Mapping[str, Any]) -> Use:
    """Of a reservation; one that says nothing is for training."""
    use: Use = body.get("use", "training")
    if use not in get_args(Use):
        raise ValueError(f"it is for {use!r}")
    return use


def read_book(entries: Sequence[Entry]) -> Book:
    """What all entries say; BudgetError if one does not follow from those before it."""
    book = Book()
    for entry in entries[1:]:
        try:
            book.add(entry)
        except (KeyError, TypeError, ValueError, BudgetError) as error:
            raise BudgetError(
                f"Expected a right entry {entry.sequence} in the privacy ledger, but it is wrong ({error}); nothing is "
                "trained with differential privacy until the ledger's latest copy is restored from a backup."
            ) from error
    return book


def dataset_body(dataset: Dataset) -> Mapping[str, Any]:
    """What a `data` entry says."""
    return {
        "fingerprint": dataset.fingerprint,
        "owner_column": dataset.owner_column,
        "owners": dataset.owners,
        "marks": sorted(dataset.marks),
    }
