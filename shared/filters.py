"""Robust filters of updates: what each is, how many institutions it needs, and what it cannot work with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from shared.federation import Federation

FilterName = Literal["norm-bound", "median", "trimmed-mean", "geometric-median", "krum", "multi-krum", "fltrust"]


@dataclass(frozen=True)
class Filter:
    """What everybody must know of a filter; the arithmetic is in `server/robust/`."""

    summary: str
    source: str
    """The paper."""
    beyond: int | None = 1
    """With f poisoned institutions it needs 2 f and this many; None if it needs no majority."""
    by_coordinate: bool = False
    """Whether it looks at every number by itself, and not at whole steps."""


FILTERS: Mapping[FilterName, Filter] = {
    "norm-bound": Filter("longer steps are cut to the median length", "Sun et al. 2019, arXiv 1911.07963"),
    "median": Filter("the median of every number", "Yin et al. 2018, arXiv 1803.01498", by_coordinate=True),
    "trimmed-mean": Filter(
        "the mean of every number without its `byzantine` highest and lowest values",
        "Yin et al. 2018, arXiv 1803.01498",
        by_coordinate=True,
    ),
    "geometric-median": Filter(
        "the step with the least sum of distances to all steps", "RFA; Pillutla et al. 2022, arXiv 1912.13445"
    ),
    "krum": Filter("the one step that is nearest to its neighbours", "Blanchard et al. 2017, NeurIPS", beyond=3),
    "multi-krum": Filter(
        "the mean of all steps but the `byzantine` that are farthest from their neighbours",
        "Blanchard et al. 2017, NeurIPS",
        beyond=3,
    ),
    "fltrust": Filter(
        "steps weighted by their cosine with that of `root`, and scaled to its length",
        "FLTrust; Cao et al. 2021, arXiv 2012.13995",
        beyond=None,
    ),
}
"""By `robust.filter`."""
assert set(FILTERS) == set(get_args(FilterName))


def fewest(name: FilterName, byzantine: int) -> int:
    """The fewest updates among which a filter withstands so many poisoned ones."""
    beyond = FILTERS[name].beyond
    return 1 if beyond is None else 2 * byzantine + beyond


def wrong_filter(federation: "Federation") -> list[str]:
    """Everything that the table [robust] cannot work with, one clause each."""
    robust, rounds, method, wrong = federation.robust, federation.rounds, federation.method, []
    if robust is None:
        return []
    if federation.secure_aggregation:
        wrong.append("[secure_aggregation] must not be given: a filter needs single updates")
    if rounds.weighting != "equal":
        wrong.append(
            f"rounds.weighting must be 'equal', since record counts are an institution's own word, not "
            f"{rounds.weighting!r}"
        )
    if federation.adapter.type == "adalora":
        wrong.append("adapter.type must be 'lora', since importance is an institution's own word, not 'adalora'")
    sent = [[factor for factor in factors if factor not in method.keeps] for factors in method.trains]
    if FILTERS[robust.filter].by_coordinate and max(map(len, sent)) > 1:
        wrong.append(
            f"robust.filter {robust.filter!r} needs a method under which a single factor is sent in a round, such as "
            f"'rolora', not {federation.method_name!r}: of two, each may look harmless while their product is not"
        )
    if rounds.quorum < (least := fewest(robust.filter, robust.byzantine)):
        wrong.append(
            f"rounds.quorum must be at least {least}, for {robust.filter!r} to withstand {robust.byzantine} poisoned "
            f"updates, not {rounds.quorum}"
        )
    if (robust.filter == "fltrust") != (robust.root is not None):
        wrong.append("robust.root must be given for 'fltrust', and for no other filter")
    elif robust.root is not None and robust.root not in rounds.institutions:
        wrong.append(f"robust.root must be one of {list(rounds.institutions)}, not {robust.root!r}")
    return [f"with [robust], {clause}" for clause in wrong]
