"""What an agreement asks of a release (`[release]`) beside what was measured of it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from server.release.audits import Audited
from server.release.lineage import Worst
from shared.errors import ReleaseError, joined
from shared.federation import Federation


@dataclass(frozen=True)
class Measured:
    """What is known of a model that is to be released."""

    worst: Worst | None
    """The lowest score; None if nothing was scored."""
    unscored: Sequence[tuple[str, str]]
    """Institutions and tasks that they have trained, of which no score on test records has come."""
    membership: Mapping[str, float]
    """By task that was audited, the largest area under the curve."""
    exposure: float | None
    """The largest of the audits' means, in bits."""


def measure(worst: Worst | None, unscored: Sequence[tuple[str, str]], audits: Sequence[Audited]) -> Measured:
    """Put together what was measured; of several audits the worst result counts."""
    membership: dict[str, float] = {}
    for one in audits:
        if one.membership and one.task is not None:
            membership[one.task] = max(one.membership.auc, membership.get(one.task, 0.0))
    exposed = [one.exposure for one in audits if one.exposure is not None]
    return Measured(worst, unscored, membership, max(exposed, default=None))


def check_gate(federation: Federation, measured: Measured, tasks: Collection[str]) -> None:
    """Raise ReleaseError unless a model has all that `[release]` asks, with everything that it misses.

    Args:
        federation: The agreement.
        measured: Of the model.
        tasks: Those whose heads are released.
    """
    if lacks := list(missed(federation, measured, sorted(tasks))):
        raise ReleaseError(
            f"Expected a model that has what [release] of its agreement asks, but {joined(lacks, '; ')}; nothing was "
            "released."
        )


def missed(federation: Federation, measured: Measured, tasks: Sequence[str]) -> Iterator[str]:
    """What a model lacks, a phrase each; arguments as `check_gate`."""
    agreed = federation.release
    if agreed is None:
        return
    if (most := agreed.max_exposure) is not None:
        if measured.exposure is None:
            yield f"exposure was not measured (max_exposure = {most:g}: `collegium audit --kind secrets`, then --audit)"
        elif measured.exposure > most:
            yield f"exposure is {measured.exposure:.2f} bits (max_exposure = {most:g})"
    if (most := agreed.max_membership_auc) is not None:
        for task in tasks:
            found = measured.membership.get(task)
            if found is None:
                yield f"membership in {task} was not measured (max_membership_auc = {most:g}: `collegium audit BUNDLE`)"
            elif found > most:
                yield f"membership in {task} is told at an area of {found:.3f} (max_membership_auc = {most:g})"
        if not tasks:
            yield f"membership was not measured, since there is no head (max_membership_auc = {most:g})"
    if (least := agreed.min_worst_score) is not None:
        for institution, task in measured.unscored:
            yield f"{institution} has told no test score of {task} (min_worst_score = {least:g})"
        if measured.worst is None:
            yield f"nothing was scored on test records (min_worst_score = {least:g})"
        elif measured.worst.value < least:
            one = measured.worst
            yield (
                f"the worst score is {one.value:.3f}, {one.institution}'s {one.metric} of {one.task} "
                f"(min_worst_score = {least:g})"
            )
