"""What private training costs this institution's data, taken from the ledger before the first step."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from client.data.identity import hash_record, owner_of
from client.hashchain import Head
from client.institution import Institution
from client.leaving import receipts
from client.policy import Policy
from client.privacy.accounting import Mechanism, epsilon, noise_multiplier_for
from client.privacy.dataset import Dataset, describe_dataset
from client.privacy.ledger import FILE, Ledger
from client.privacy.owners import Key, Owner, Private, steps_per_round
from shared.errors import BudgetError, DataError, ProtocolError
from shared.federation import Federation, Privacy, Training
from shared.tasks import Record, Task


@dataclass(frozen=True)
class Owned:
    """Some records, and whose each is."""

    owners: Mapping[Key, Owner]
    dataset: Dataset


@dataclass
class Account:
    """Whose records are trained on, and what has been spent on them."""

    federation: Federation
    """It has [privacy]."""
    policy: Policy
    owners: Mapping[Key, Owner]
    dataset: Dataset
    ledger: Ledger | None = None
    """None in the simulator, where nothing leaves."""
    taken: list[Mechanism] = field(default_factory=list)
    """Without a ledger: what was trained."""

    @contextmanager
    def spend(self, *, round: int, run: str | None = None, known: Head | None = None) -> Iterator[Private]:
        """Reserve a round's steps, train inside, and settle; what ends otherwise counts in full.

        Args:
            round: The round to train.
            run: The run, if known.
            known: The ledger's last entry as the coordinator remembers it.

        Raises:
            BudgetError: The budget does not allow the round, or the ledger is not what it was.
        """
        mechanism = mechanism_of_round(self.federation)
        private = Private(privacy_of(self.federation), mechanism.noise_multiplier, self.owners)
        if self.ledger is None:
            yield private
            self.taken.append(mechanism)
            return
        if known:
            self.ledger.check([known])
        max_epsilon, delta = budget_of(self.policy, self.federation)
        reservation = self.ledger.reserve(
            self.dataset,
            mechanism,
            delta=delta,
            max_epsilon=max_epsilon,
            ask=self.policy.asks_for_new_data,
            federation=self.federation.digest,
            run=run,
            round=round,
        )
        yield private
        self.ledger.commit(reservation, mechanism.steps)

    def epsilon(self) -> float:
        """What the data have spent so far, at the federation's delta."""
        delta = privacy_of(self.federation).delta
        return self.ledger.spent(self.dataset, delta).epsilon if self.ledger else epsilon(self.taken, delta)

    @property
    def head(self) -> Head | None:
        """The ledger's last entry, for others to remember."""
        return self.ledger.head if self.ledger else None


def budget_of(policy: Policy, federation: Federation) -> tuple[float, float]:
    """Epsilon and delta: the policy's, or else those of the federation file that the site has approved.

    Raises:
        BudgetError: Neither says.
    """
    privacy = privacy_of(federation)
    if policy.max_epsilon is not None:
        return policy.max_epsilon, policy.delta
    if privacy.epsilon is None:
        raise BudgetError(
            "Expected policy.max_epsilon in institution.toml, since the federation's [privacy] gives a "
            "noise_multiplier and no epsilon; say how much this site's data may spend."
        )
    return privacy.epsilon, privacy.delta


def privacy_of(federation: Federation) -> Privacy:
    """The [privacy] of a federation that has one."""
    assert federation.privacy
    return federation.privacy


def mechanism_of_round(federation: Federation) -> Mechanism:
    """The noisy steps of one round, the noise calibrated so that all planned rounds keep to `privacy.epsilon`."""
    return _mechanism(privacy_of(federation), federation.training, federation.rounds.count)


@cache
def _mechanism(privacy: Privacy, training: Training, rounds: int) -> Mechanism:
    steps = steps_per_round(privacy, training)
    noise = privacy.noise_multiplier
    if noise is None:
        assert privacy.epsilon is not None
        noise = noise_multiplier_for(privacy.epsilon, privacy.delta, privacy.sampling_rate, max(1, steps * rounds))
    return Mechanism(noise, privacy.sampling_rate, steps)


def ledger_file(institution: Institution) -> Path:
    """Where the institution's ledger lies."""
    return institution.runtime.ledger or institution.runtime.state / FILE


def has_ledger(institution: Institution) -> bool:
    """Whether there is one, or one in the state folder that would be taken in."""
    return ledger_file(institution).exists() or (institution.runtime.state / FILE).exists()


def open_ledger(institution: Institution) -> Ledger:
    """The institution's ledger, held against what the receipts of this state folder remember of it; raises as there."""
    state = institution.runtime.state
    return Ledger.open(ledger_file(institution), known=receipts.heads(state), former=state / FILE)


def parse_head(text: str) -> Head:
    """The head that `str(head)` wrote; ProtocolError if the text is none."""
    sequence, _, sha256 = text.partition(":")
    if not sequence.isascii() or not sequence.isdigit() or len(sha256) != 64:
        raise ProtocolError(f"Expected NUMBER:SHA-256 of a privacy ledger's entry, but {text[:80]!r} came.")
    return Head(int(sequence), sha256)


def open_account(
    records: Mapping[str, Sequence[Record]],
    columns: Mapping[str, str | None],
    *,
    tasks: Mapping[str, Task],
    federation: Federation,
    policy: Policy,
    ledger: Ledger | None,
) -> Account:
    """The account of a site's training records; the ledger then knows them.

    Owners are the same across tasks and columns if their values are: a patient of two tasks is one owner.

    Args:
        records: Training records per task.
        columns: Per task the column that names owners, or None.
        tasks: What reads them.
        federation: The agreement; it has [privacy].
        policy: The site's budget.
        ledger: Where what is spent is kept; None in the simulator.

    Raises:
        DataError: A record lacks its owner.
        BudgetError: The ledger could not be read or written.
    """
    owned = own(records, columns, tasks)
    if ledger:
        ledger.introduce(owned.dataset)
    return Account(federation, policy, owned.owners, owned.dataset, ledger)


def own(records: Mapping[str, Sequence[Record]], columns: Mapping[str, str | None], tasks: Mapping[str, Task]) -> Owned:
    """Whose records are, and which data set they are; arguments and DataError as `open_account`."""
    owners: dict[Key, Owner] = {}
    held_by: dict[Owner, list[str]] = {}
    for name, of_task in records.items():
        task, column = tasks[name], columns[name]
        for i, record in enumerate(of_task):
            try:
                owner = owners[name, i] = owner_of(record, task, column)
            except ValueError as error:
                raise DataError(f"Record {i + 1} of {name}: {error}.") from None
            held_by.setdefault(owner, []).append(hash_record(record, task))
    named = ", ".join(sorted({column for column in columns.values() if column})) or None
    return Owned(owners, describe_dataset(held_by, named))
