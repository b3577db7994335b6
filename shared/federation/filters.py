"""Robust filters of updates: what each is, and how many institutions it needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

FilterName = Literal["norm-bound", "median", "trimmed-mean", "geometric-median", "krum", "multi-krum", "fltrust"]


@dataclass(frozen=True)
class Filter:
    """What coordinator and institutions must know of a filter; the arithmetic is in `server/robust/`."""

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
