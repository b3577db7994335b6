"""Private scores: sums over owners, each owner's part clipped, with Gaussian noise, from a budget of their own.

What a record adds to the sums that its task's scores are made of (`shared.tasks.tally`) depends on that record and the
model alone. An owner's records of all tasks are one vector, scaled down to a Euclidean norm of at most
`evaluation_clip`; so one owner more or less moves the sum by no more than that, and noise of a multiple of it makes one
evaluation a Gaussian mechanism (Dwork and Roth 2014, appendix A). Nothing is subsampled: the planned evaluations of a
split compose exactly (`client.privacy.gaussian`). Scores, and how many records they rest on, are made of noisy sums.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import get_args

import numpy as np

from client.hashchain import Head
from client.policy import Policy
from client.privacy.account import Owned, own
from client.privacy.accounting import Mechanism, epsilon, noise_multiplier_for
from client.privacy.ledger import Ledger
from client.privacy.owners import Key, Owner
from client.privacy.randomness import Stream
from shared.errors import ConfigError
from shared.federation import EVALUATION_CLIP, Federation
from shared.fields import Scored, Split
from shared.tasks import Record, Task
from shared.tasks.tally import Sums

DIGITS = 2
"""Decimals of a noisy sum, so that its last digits do not tell how it was computed."""
SCORED: tuple[Scored, ...] = get_args(Scored)
Draw = Callable[[int], Sums]
"""So many standard normal numbers."""


@dataclass(frozen=True)
class Budget:
    """What scores of a split may cost one of its owners."""

    planned: tuple[float, float]
    """Epsilon and delta of all evaluations that a run plans: the noise is calibrated to them."""
    allowed: tuple[float, float]
    """Those of all runs together."""
    clip: float


@dataclass(frozen=True)
class NoisySums:
    """How the sums of one evaluation are made."""

    owners: Mapping[Key, Owner]
    """Whose each record of the split is."""
    clip: float
    noise_multiplier: float
    """Standard deviation of the noise, in clips."""

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise in every sum."""
        return self.clip * self.noise_multiplier

    def of(self, counts: Mapping[str, Sums], draw: Draw | None = None) -> dict[str, Sums]:
        """The sums of each task's counts [records, numbers], with noise in all of them: [numbers].

        Args:
            counts: What each record adds, by task.
            draw: Only for tests; by default the operating system's secret noise.
        """
        draw = draw or (lambda size: Stream().noise(size).numpy())
        exact = clipped_sum(counts, self.owners, self.clip)
        noisy = np.round(exact + self.deviation * draw(len(exact)), DIGITS)
        ends = np.cumsum([counts[task].shape[1] for task in sorted(counts)])[:-1]
        return dict(zip(sorted(counts), np.split(noisy, ends), strict=True))


def clipped_sum(counts: Mapping[str, Sums], owners: Mapping[Key, Owner], clip: float) -> Sums:
    """The sum over owners of what their records add, each owner's part of norm at most `clip`; tasks side by side."""
    width, start = sum(rows.shape[1] for rows in counts.values()), 0
    parts: dict[Owner, Sums] = {}
    for task in sorted(counts):
        end = start + counts[task].shape[1]
        for record, row in enumerate(counts[task]):
            parts.setdefault(owners[task, record], np.zeros(width))[start:end] += row
        start = end
    norms = {owner: float(np.linalg.norm(part)) for owner, part in parts.items()}
    total = np.zeros(width)
    for owner, part in parts.items():
        total += part * min(1.0, clip / norms[owner]) if norms[owner] else part
    return total


def planned_evaluations(federation: Federation, split: Scored) -> int:
    """How often a run has a split of an institution scored."""
    if split == "validation":
        return federation.rounds.count
    return 3 if federation.fine_tunes and not federation.method.keeps else 2  # initial, released, and its common part


def evaluation_budget(policy: Policy, federation: Federation) -> Budget:
    """What scores may cost, as agreed and as the site's policy allows, whichever is less.

    Raises:
        ConfigError: Neither says.
    """
    agreed = federation.privacy.evaluation_epsilon if federation.privacy else None
    given = [epsilon for epsilon in (agreed, policy.evaluation_epsilon) if epsilon is not None]
    if not given:
        raise ConfigError(
            'Expected policy.evaluation_epsilon in institution.toml, since policy.metrics is "private" and the '
            "federation file has no privacy.evaluation_epsilon; say how much scores may cost an owner."
        )
    delta = federation.privacy.delta if federation.privacy else policy.delta
    own = policy.evaluation_epsilon
    clip = federation.privacy.evaluation_clip if federation.privacy else EVALUATION_CLIP
    return Budget((min(given), delta), (given[0], delta) if own is None else (own, policy.delta), clip)


@dataclass
class Evaluations:
    """Whose records are scored, and what that has cost them."""

    federation: Federation
    budget: Budget
    owned: Mapping[Scored, Owned]
    ledger: Ledger | None = None
    """None in the simulator, where nothing leaves."""
    taken: dict[Scored, list[Mechanism]] = field(default_factory=dict)
    """Without a ledger: what was reported."""

    @contextmanager
    def spend(self, split: Scored, *, round: int, run: str | None = None) -> Iterator[NoisySums]:
        """Reserve one evaluation of a split, score inside, and settle; what ends otherwise counts in full.

        Args:
            split: Its records.
            round: The round whose state is scored.
            run: The run, if known.

        Raises:
            BudgetError: The budget does not allow it, or the ledger is not what it was.
        """
        times = planned_evaluations(self.federation, split)
        mechanism = Mechanism(noise_multiplier_for(*self.budget.planned, 1.0, times), 1.0, 1)
        sums = NoisySums(self.owned[split].owners, self.budget.clip, mechanism.noise_multiplier)
        if self.ledger is None:
            self.taken.setdefault(split, []).append(mechanism)
            yield sums
            return
        max_epsilon, delta = self.budget.allowed
        reservation = self.ledger.reserve(
            self.owned[split].dataset,
            mechanism,
            use=split,
            delta=delta,
            max_epsilon=max_epsilon,
            federation=self.federation.digest,
            run=run,
            round=round,
        )
        yield sums
        self.ledger.commit(reservation, mechanism.steps)

    def epsilon(self, split: Scored) -> float:
        """What scores have cost the owners of a split so far, at the delta that the noise is calibrated to."""
        _, delta = self.budget.planned
        if self.ledger:
            return self.ledger.spent(self.owned[split].dataset, delta, split).epsilon
        return epsilon(self.taken.get(split, []), delta)

    @property
    def head(self) -> Head | None:
        """The ledger's last entry, for others to remember."""
        return self.ledger.head if self.ledger else None


def open_evaluations(
    records: Mapping[str, Mapping[Split, Sequence[Record]]],
    columns: Mapping[str, str | None],
    *,
    tasks: Mapping[str, Task],
    federation: Federation,
    policy: Policy,
    ledger: Ledger | None,
) -> Evaluations:
    """The account of a site's validation and test records, of the tasks that have a tally.

    Args:
        records: Per task and split.
        columns: Per task the column that names owners, or None.
        tasks: What reads them.
        federation: The agreement.
        policy: The site's budget.
        ledger: Where what is spent is kept; None in the simulator.

    Raises:
        ConfigError: Nobody says what scores may cost.
        DataError: A record lacks its owner.
    """
    owned: dict[Scored, Owned] = {}
    for split in SCORED:
        found = {task: splits[split] for task, splits in records.items() if tasks[task].tally and split in splits}
        if found:
            owned[split] = own(found, columns, tasks)
    return Evaluations(federation, evaluation_budget(policy, federation), owned, ledger)
