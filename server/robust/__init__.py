"""Robust filters: what a poisoned or broken institution may do to a round (`shared.federation.filters`).

The adapter is filtered over all institutions of a round, and every head over its holders by itself; who holds a head
alone is not filtered there, since there is nothing to compare with. Whole steps are judged by their inner products in
the space of the products B A (`products`, `filters`), never factor by factor: of two factors each may look harmless
while their product is not (GAP attack, 2026, arXiv 2601.00566).

What comes out are updates again, for whatever method averages them:

- A step that is too long is scaled to (t dB, t dA), with the smallest t at which the step of the *product* has the
  length allowed. A fraction of that step itself is no pair of factors of the same rank; this one is, and on the way
  from what the institution received to what it proposes it is where that length is reached first.
- Trust multiplies an institution's weight in the mean of any method (`ClientUpdate.trust`). Otherwise all weights in
  the adapter are equal, since an institution could claim any tasks.
- A median or trimmed mean of every number replaces every update: their mean is that median.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from server.aggregation import ClientUpdate
from server.robust.coordinates import combine, outermost
from server.robust.judging import Verdict, judge
from server.robust.products import Steps, adapter_steps, head_steps
from shared.adapter import HEAD, task_of
from shared.errors import QuorumError
from shared.federation import Robust
from shared.federation.filters import FILTERS
from shared.federation.methods import Method


@dataclass(frozen=True)
class Finding:
    """What a filter found of one institution's step of one part, the adapter or a head."""

    institution: str
    part: str
    """`adapter`, or `head/TASK`."""
    filter: str
    """That judged it: `none` where a head has one holder, `norm-bound` where it has too few for the one agreed."""
    norm: float
    """Length of the step as it came."""
    cosine: float | None
    """Of the angle to the mean that was taken; None where either is zero."""
    verdict: Verdict
    reason: str | None
    """With the numbers; None for `kept`."""


def apply(
    state: Mapping[str, np.ndarray], updates: Sequence[ClientUpdate], *, robust: Robust, method: Method
) -> tuple[list[ClientUpdate], list[Finding]]:
    """Filter a round's updates.

    Args:
        state: The global state that the institutions received.
        updates: Checked, all of them.
        robust: The filter, and what it must withstand.
        method: That averages them afterwards.

    Returns:
        As many updates, scaled and with `trust`; what was found of every institution and part.

    Raises:
        QuorumError: The trusted root's update is not among them.
    """
    if robust.root is not None and all(update.institution != robust.root for update in updates):
        raise QuorumError(
            f"Expected an update of {robust.root}, the reference that robust.root names, but none came "
            "in this round; the last checkpoint is kept, so mend that institution and resume the run."
        )
    filtered = {update.institution: replace(update, arrays={}) for update in updates}
    found: list[Finding] = []
    for part in sorted({task_of(name) for update in updates for name in update.arrays}, key=lambda part: part or ""):
        own = [_only(part, update) for update in updates if part is None or part in update.examples]
        done, findings = _filter(state, own, part, robust, method)
        found += findings
        for update in done:
            whole = filtered[update.institution]
            filtered[update.institution] = replace(
                whole, arrays={**whole.arrays, **update.arrays}, trust={**whole.trust, **update.trust}
            )
    return list(filtered.values()), found


def describe(findings: Sequence[Finding], *, most: int = 5) -> str:
    """What was not kept, in one line; empty if everything was."""
    lines = [f"{f.institution} {f.verdict} ({f.part}: {f.reason})" for f in findings if f.verdict != "kept"]
    rest = [f"and {len(lines) - most} more, see `collegium server status`"] if len(lines) > most else []
    return "; ".join(lines[:most] + rest)


def _only(part: str | None, update: ClientUpdate) -> ClientUpdate:
    """The update of the adapter or a head alone, zero in rows that are not the institution's to move."""
    arrays = {name: update.arrays[name] for name in sorted(update.arrays) if task_of(name) == part}
    for name in arrays.keys() & update.rows.keys():
        arrays[name] = arrays[name] * update.rows[name].reshape(-1, *(1,) * (arrays[name].ndim - 1))
    return replace(update, arrays=arrays)


def _filter(
    state: Mapping[str, np.ndarray], own: Sequence[ClientUpdate], part: str | None, robust: Robust, method: Method
) -> tuple[list[ClientUpdate], list[Finding]]:
    """Filter the updates of one part."""

    def steps_of(updates: Sequence[ClientUpdate]) -> Steps:
        if part is None:
            return adapter_steps(state, updates, method=method)
        return head_steps([list(update.arrays.values()) for update in updates])

    if len(own) > 1 and FILTERS[robust.filter].by_coordinate:
        mean = combine(own, robust)
        gram = steps_of([*own, replace(own[0], arrays=mean)]).gram
        findings = _findings(own, part, robust.filter, gram, outermost(own))
        return [replace(update, arrays=mean, trust={part: 1.0}) for update in own], findings
    steps = steps_of(own)
    judgement = judge(steps.gram, [update.institution for update in own], robust)
    scales = steps.scale_to(judgement.lengths)
    filtered = [
        replace(update, arrays=_scaled(update, scale), trust={part: float(trust)})
        for update, scale, trust in zip(own, scales, judgement.trust, strict=True)
    ]
    gram = steps.beside_mean(scales, judgement.trust)
    return filtered, _findings(own, part, judgement.filter, gram, judgement.judged)


def _scaled(update: ClientUpdate, scale: float) -> dict[str, np.ndarray]:
    if scale == 1.0:
        return dict(update.arrays)
    return {name: (array * scale).astype(np.float32) for name, array in update.arrays.items()}


def _findings(
    own: Sequence[ClientUpdate],
    part: str | None,
    name: str,
    gram: np.ndarray,
    judged: Sequence[tuple[Verdict, str | None]],
) -> list[Finding]:
    """What is reported about the steps of one part; the last row of `gram` is the mean that was taken."""
    lengths = np.sqrt(np.maximum(gram.diagonal(), 0.0))
    found = []
    for i, (update, (verdict, reason)) in enumerate(zip(own, judged, strict=True)):
        both = lengths[i] * lengths[-1]
        cosine = float(np.clip(gram[i, -1] / both, -1.0, 1.0)) if both > 0 else None
        where = "adapter" if part is None else HEAD + part
        found.append(Finding(update.institution, where, name, float(lengths[i]), cosine, verdict, reason))
    return found
