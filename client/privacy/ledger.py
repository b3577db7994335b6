"""The ledger of what the data of this institution have spent, across rounds, runs, restarts and coordinators.

There is one for an institution, whatever its federations: several daemons may name the same file, and what an earlier
ledger in a state folder has counted is taken in (`adopt`).

Every training is reserved before its first step and settled after its last. A reservation that was never settled, since
the process died, counts in full for ever. What counts for a data set is every reservation of every data set that shares
an owner or a record with it: an owner in both has lost in both (sound under add/remove of owners), and a record added
or removed gives no new budget. A data set that shares nothing with any that has a budget begins one of its own; that is
announced, recorded, and waits for the operator's word where the policy says so.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from client.hashchain import Head
from client.privacy import chain
from client.privacy.accounting import Mechanism, epsilon, rdp_epsilon
from client.privacy.book import Book, Use, dataset_body, read_book
from client.privacy.chain import Chain, Entry
from client.privacy.dataset import Dataset
from shared.errors import BudgetError

log = logging.getLogger("collegium.client")
FILE = "ledger.sqlite"
"""Name of the ledger in the state folder."""
SHOWN = 12
"""Characters of a fingerprint that are enough to name a data set."""


@dataclass(frozen=True)
class Reservation:
    """Steps that may be taken now: at most those of the mechanism."""

    sequence: int
    """The number of its entry."""
    mechanism: Mechanism


@dataclass(frozen=True)
class Spent:
    """What a data set has spent."""

    delta: float
    epsilon: float
    """By PRV; an upper bound."""
    rdp_epsilon: float
    """By Renyi DP, as a check: never below."""
    reservations: int
    """How many reservations count."""
    steps: int
    """Steps taken; of an open reservation all that it may take."""
    open: int
    """Reservations that are not settled: of a training under way, or of one that died and counts in full for ever."""


class Ledger:
    """The ledger of one institution; several processes may use it in turn.

    Attributes:
        path: The file.
        head: Its last entry as this process last saw it, to be remembered outside the file.
    """

    def __init__(self, path: Path, head: Head) -> None:
        self.path = path
        self.head = head

    @classmethod
    def open(cls, path: Path, *, known: Sequence[Head] = (), former: Path | None = None) -> Self:
        """Open the ledger, or begin one where there is none and none is remembered.

        Args:
            path: The file; its folder is made if need be.
            known: Heads remembered elsewhere: in receipts, by the coordinator.
            former: Where this site's ledger lay before it was told to use this one; if one lies there, what it has
                counted is taken in, once, and it is closed.

        Raises:
            BudgetError: The file is missing though a head is known, is not readable, has been edited, or does not
                contain a known head since an older copy or another ledger lies there; it was moved to another one; or
                the former one cannot be read or closed.
        """
        if former is not None and former.exists() and not (path.exists() and former.samefile(path)):
            _move(former, path)
        if not path.exists():
            if known:
                raise BudgetError(
                    f"Expected the privacy ledger {path} with entry {max(head.sequence for head in known)}, but there "
                    "is no such file; nothing is trained with differential privacy until its latest copy is restored "
                    "from a backup."
                )
            chain.create(path)
        with chain.transaction(path, write=False) as found:
            _check_heads(path, found.entries, known)
            _check_place(path, read_book(found.entries))
        return cls(path, chain.bring_up_to_date(path))

    def check(self, known: Sequence[Head]) -> None:
        """Verify the whole file once more, and that it contains these heads; raises BudgetError as `open`."""
        with self._transaction(write=False) as (found, _):
            _check_heads(self.path, found.entries, known)

    def introduce(self, dataset: Dataset) -> bool:
        """Record a data set that the ledger does not have yet, and announce it if its budget would begin at nothing.

        Returns:
            Whether it is new: it shares no owner and no record with any that has been trained on or approved, although
            there is one.

        Raises:
            BudgetError: The ledger could not be read or written.
        """
        with self._transaction(write=True) as (found, book):
            recorded, new = book.number_of(dataset) is not None, book.is_new(dataset)
            if not recorded:
                found.append("data", dataset_body(dataset))
        if new and not recorded:
            log.warning(
                "the data set %s of %d owners shares no owner and no record with any in the privacy ledger: its budget "
                "starts from zero",
                dataset.fingerprint[:SHOWN],
                dataset.owners,
            )
        return new

    def approve(self, name: str) -> Dataset:
        """Let a data set that is new begin a budget of its own, in whatever ledger it was first recorded.

        Args:
            name: How its fingerprint begins.

        Raises:
            BudgetError: No data set, or more than one, is called so; it does not wait; or the ledger could not be read
                or written.
        """
        with self._transaction(write=True) as (found, book):
            known = {each.fingerprint: number for number, each in book.datasets.items()}
            named = {begins: number for begins, number in known.items() if name and begins.startswith(name)}
            if len(named) != 1:
                raise BudgetError(
                    f"Expected the beginning of one data set's fingerprint, but {name[:80]!r} begins {len(named)}; "
                    "`collegium client ledger` lists them."
                )
            (number,) = named.values()
            found.append("approve", {"dataset": book.number_to_approve(number)})
            return book.datasets[number]

    def reserve(
        self,
        dataset: Dataset,
        mechanism: Mechanism,
        *,
        delta: float,
        max_epsilon: float | None,
        federation: str,
        run: str | None,
        round: int,
        ask: bool = False,
        use: Use = "training",
    ) -> Reservation:
        """Take steps from the data set's budget; they are on disk when this returns, so that training may begin.

        Args:
            dataset: What is trained on.
            mechanism: All the steps that the training may take.
            delta: At which the budget is counted.
            max_epsilon: The budget: most epsilon over all that counts, these steps included; None is without limit.
            federation: Digest of the federation file.
            run: The run, if known.
            round: The round.
            ask: Refuse a data set that is new to the ledger until the operator has approved it.
            use: What the records are used for: only what was spent on the same counts, and only training asks.

        Raises:
            BudgetError: The budget does not allow it, the data set waits to be approved, or the ledger could not be
                read or written: nothing is reserved.
        """
        if use == "training" and self.introduce(dataset) and ask:
            raise BudgetError(
                "This site's training data share no owner and no record with any that its privacy ledger knows: their "
                'budget would start from zero, and that waits for its operator (policy.new_data = "ask"); '
                "`collegium client ledger institution.toml` lists them, and --approve lets them be trained on."
            )
        with self._transaction(write=True) as (found, book):
            if max_epsilon is not None:
                before = [charge.mechanism for charge in book.counted(dataset, use)]
                _check_budget(before, mechanism, delta, max_epsilon, use)
            number = book.number_of(dataset, use)
            if number is None:
                number = found.append("scored", dataset_body(dataset)).sequence
            body = {
                "dataset": number,
                "fingerprint": dataset.fingerprint,
                "noise_multiplier": float(mechanism.noise_multiplier),
                "sampling_rate": float(mechanism.sampling_rate),
                "steps": int(mechanism.steps),
                "delta": delta,
                "federation": federation,
                "run": run,
                "round": round,
            }
            entry = found.append("reserve", body if use == "training" else {**body, "use": use})
        return Reservation(entry.sequence, mechanism)

    def commit(self, reservation: Reservation, steps: int) -> None:
        """Settle a reservation by the steps that were really taken; 0 gives all of it back.

        Raises:
            BudgetError: There is no such reservation, it is settled already, or took more steps than it reserved; or
                the ledger could not be read or written. The reservation then counts as before.
        """
        with self._transaction(write=True) as (found, book):
            book.charge_to_settle(reservation.sequence, steps)
            found.append("commit", {"reserve": reservation.sequence, "steps": int(steps)})

    def spent(self, dataset: Dataset, delta: float, use: Use = "training") -> Spent:
        """What the data set has spent on one use, at this delta."""
        with self._transaction(write=False) as (_, book):
            charges = book.counted(dataset, use)
        mechanisms = [charge.mechanism for charge in charges]
        return Spent(
            delta=delta,
            epsilon=epsilon(mechanisms, delta),
            rdp_epsilon=rdp_epsilon(mechanisms, delta),
            reservations=len(charges),
            steps=sum(mechanism.steps for mechanism in mechanisms),
            open=sum(charge.open for charge in charges),
        )

    def mechanisms(self, dataset: Dataset, use: Use = "training") -> list[Mechanism]:
        """All that counts of one use of the data set, for what more would cost."""
        with self._transaction(write=False) as (_, book):
            return [charge.mechanism for charge in book.counted(dataset, use)]

    def datasets(self, use: Use = "training") -> list[Dataset]:
        """Every data set that was to be trained on, or of which scores were reported, the oldest first."""
        with self._transaction(write=False) as (_, book):
            charged = {charge.dataset for charge in book.charges.values() if charge.use == use}
            known = book.known(use).items()
            return list(dict.fromkeys(each for number, each in known if use == "training" or number in charged))

    def is_new(self, dataset: Dataset) -> bool:
        """Whether its budget would begin at nothing although another data set has one, and nobody has approved it."""
        with self._transaction(write=False) as (_, book):
            return book.is_new(dataset)

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[tuple[Chain, Book]]:
        with chain.transaction(self.path, write=write) as found:
            _check_heads(self.path, found.entries, [self.head])
            book = read_book(found.entries)
            _check_place(self.path, book)
            yield found, book
        self.head = found.entries[-1].head


def _move(former: Path, path: Path) -> None:
    """Have what an earlier ledger has counted count in another one, which is made if need be.

    The earlier one is closed first: whatever dies in between, nothing is written to it that the other lacks.
    """
    chain.bring_up_to_date(former)
    with chain.transaction(former, write=False) as old:
        moved = read_book(old.entries).moved
    if not path.exists():
        if moved is not None and Path(moved) == path.absolute():
            raise BudgetError(
                f"Expected the privacy ledger {path}, to which {former} has been moved, but there is no such file; "
                "nothing is trained with differential privacy until its latest copy is restored from a backup."
            )
        chain.create(path)
    if moved is None:
        with chain.transaction(former, write=True) as old:
            if read_book(old.entries).moved is None:  # another process may have been here
                old.append("moved", {"to": str(path.absolute())})
    chain.bring_up_to_date(path)
    with chain.transaction(path, write=True) as found:
        if old.entries[-1].head not in read_book(found.entries).heads:
            log.info("the privacy ledger %s counts what %s has counted", path, former)
            found.append("adopt", {"entries": [[each.kind, each.body, each.sha256] for each in old.entries]})


def _check_place(path: Path, book: Book) -> None:
    if book.moved is not None:
        raise BudgetError(
            f"Expected the privacy ledger of this institution, but {path} ended when it was taken into {book.moved}; "
            "name that one as runtime.ledger in institution.toml."
        )


def _check_heads(path: Path, entries: Sequence[Entry], known: Sequence[Head]) -> None:
    adopted = read_book(entries).heads if any(each.kind == "adopt" for each in entries) else set()
    for head in known:
        if head in adopted:
            continue
        if not 0 <= head.sequence < len(entries):
            raise BudgetError(
                f"Expected the privacy ledger {path} with entry {head.sequence}, which is remembered outside it, but "
                f"it ends at {entries[-1].sequence}: an older copy lies there; nothing is trained with differential "
                "privacy until the latest one is restored."
            )
        if entries[head.sequence].head != head:
            raise BudgetError(
                f"Expected entry {head.sequence} of the privacy ledger {path} to be {head.sha256[:12]}..., which is "
                f"remembered outside it, but it is {entries[head.sequence].sha256[:12]}...: an older copy that was "
                "written on, or another ledger, lies there; nothing is trained with differential privacy until the "
                "latest one is restored."
            )


def _check_budget(before: Sequence[Mechanism], asked: Mechanism, delta: float, max_epsilon: float, use: Use) -> None:
    after = [*before, asked]
    # Renyi DP is an upper bound as well, and much faster: PRV is needed only near the end of the budget.
    if rdp_epsilon(after, delta) <= max_epsilon or epsilon(after, delta) <= max_epsilon:
        return
    if use != "training":
        raise BudgetError(
            f"This site's budget for {use} scores is epsilon {max_epsilon:g} at delta {delta:g} "
            f"(policy.evaluation_epsilon, or privacy.evaluation_epsilon), of which {epsilon(before, delta):.3f} is "
            f"spent, and one more evaluation at noise multiplier {asked.noise_multiplier:.4g} would make it "
            f"{epsilon(after, delta):.3f}; raise policy.evaluation_epsilon, or score records of other owners."
        )
    raise BudgetError(
        f"This site's budget is epsilon {max_epsilon:g} at delta {delta:g} (policy.max_epsilon), of which "
        f"{epsilon(before, delta):.3f} is spent, and {asked.steps} more steps at noise multiplier "
        f"{asked.noise_multiplier:.4g} and sampling rate {asked.sampling_rate:.4g} would make it "
        f"{epsilon(after, delta):.3f}; plan fewer rounds or more noise, or train on data of other owners."
    )
