"""Reported record counts set the weights of averages; no institution's may exceed an agreed share.

Of the counts n_i of one task, those above a level c count as c, where c is the largest with

    c <= max_share * sum_j min(n_j, c).

At most 1 / max_share institutions are above it, so that only the largest counts decide what it is. Where there are so
few holders that somebody must weigh more than the share, all weigh the same.
"""

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from server.aggregation import ClientUpdate, Cut
from shared.federation import Weighting

TOTAL = "all tasks"
"""Where a count of records of all tasks together is cut."""


def capped(counts: Mapping[str, float], max_share: float) -> dict[str, float]:
    """The counts, none of them above `max_share` of their sum; all the same if there are too few for that.

    Args:
        counts: By institution, above 0.
        max_share: Above 0, at most 1, which cuts nothing.
    """
    level = _level(sorted(counts.values(), reverse=True), 0, max_share)
    return {name: min(count, level) for name, count in counts.items()}


def capped_mean(
    reported: Mapping[str, tuple[float, int]], max_share: float, task: str = TOTAL
) -> tuple[float, list[Cut]]:
    """The mean of institutions' values by their capped counts; which of these were cut.

    Args:
        reported: By institution, a value and the records that it rests on.
        max_share: See `capped`.
        task: Whose records they are.
    """
    used = capped({name: count for name, (_, count) in reported.items()}, max_share)
    mean = sum(used[name] * value for name, (value, _) in reported.items()) / sum(used.values())
    return mean, [Cut(name, task, reported[name][1], n) for name, n in used.items() if n < reported[name][1]]


def capped_updates(
    updates: Iterable[ClientUpdate], *, weighting: Weighting, max_share: float, cuts: list[Cut]
) -> Iterator[ClientUpdate]:
    """The updates, with what their examples count for instead where that is less (`ClientUpdate.counts`).

    What is cut is known at the end, so those with the largest counts are held back until then: at most 1 / max_share of
    them for every task. All others pass at once.

    Args:
        updates: Consumed one at a time.
        weighting: `equal` looks at no counts, and `examples` also cuts their total.
        max_share: See `capped`.
        cuts: What is cut is added here.
    """
    if weighting == "equal" or max_share == 1:
        yield from updates
        return
    tops: dict[str | None, _Top] = {}
    waiting: dict[str, ClientUpdate] = {}
    for update in updates:
        if update.institution in waiting:
            yield update  # a second one of the same institution is for the average to refuse
            continue
        waiting[update.institution] = update
        left = {update.institution}
        for part, count in _counts(update, weighting).items():
            left |= tops.setdefault(part, _Top(math.floor(1 / max_share))).add(count, update.institution)
        decisive = {name for top in tops.values() for _, name in top.largest}
        for name in sorted(left - decisive):
            yield waiting.pop(name)
    levels = {part: top.level(max_share) for part, top in tops.items()}
    for name, update in waiting.items():
        counts = _counts(update, weighting)
        used = {part: levels[part] for part, count in counts.items() if count > levels[part]}
        cuts += [Cut(name, TOTAL if part is None else part, counts[part], level) for part, level in used.items()]
        yield replace(update, counts=used)


@dataclass
class _Top:
    """The largest counts of a task, and what all others add up to."""

    most: int
    largest: list[tuple[int, str]] = field(default_factory=list)
    rest: int = 0

    def add(self, count: int, name: str) -> set[str]:
        """Who is not among the largest now."""
        heapq.heappush(self.largest, (count, name))
        if len(self.largest) <= self.most:
            return set()
        least, other = heapq.heappop(self.largest)
        self.rest += least
        return {other}

    def level(self, max_share: float) -> float:
        return _level(sorted((count for count, _ in self.largest), reverse=True), self.rest, max_share)


def _counts(update: ClientUpdate, weighting: Weighting) -> dict[str | None, int]:
    """Counts that set weights: examples by task, and under None of all; not where a filter takes nothing."""
    counts: dict[str | None, int] = {t: n for t, n in update.examples.items() if update.trust.get(t, 1.0) > 0}
    if weighting == "examples" and None not in update.trust:
        counts[None] = sum(update.examples.values())
    return counts


def _level(largest: Sequence[float], rest: float, max_share: float) -> float:
    """What a count is cut to.

    Args:
        largest: The largest counts, falling; all that may be cut.
        rest: The sum of all others.
        max_share: See `capped`.
    """
    for above, count in enumerate(largest):
        level = max_share * (sum(largest[above:]) + rest) / (1 - above * max_share)
        if count <= level:
            return level
    return max_share * rest / (1 - len(largest) * max_share) if rest else largest[-1]
