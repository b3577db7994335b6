"""Random batches under a token budget, cut into micro-batches of similar length: little padding, no bias by length."""

from collections.abc import Sequence

import numpy as np

from shared.model.packed import PAD_MULTIPLE
from shared.tasks import Example

PADDED_PASS = 128
"""What one more forward and backward pass costs, in padded sub-tokens; measured with MiniLM-L6 on a CPU."""
PACKED_PASS = 1024
"""The same where only attention and heads see padding (`shared.model.encoder`)."""


def pack(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Cut positions 0..n-1, in the given order, into batches of at most `batch_tokens` padded sub-tokens.

    A row longer than the budget is a batch of its own.
    """
    batches: list[list[int]] = []
    width = 0
    for position, length in enumerate(lengths):
        padded = padded_length(length)
        if batches and max(width, padded) * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(position)
            width = max(width, padded)
        else:
            batches.append([position])
            width = padded
    return batches


def training_batches(examples: Sequence[Example], batch_tokens: int, rng: np.random.Generator) -> list[list[Example]]:
    """One epoch in random order: every example once, tasks and lengths mixed.

    As many batches as there are budgets of `batch_tokens` in the examples, of about as many sub-tokens each. Every
    step is of a random sample: batches of one length each would teach a small site the order of lengths.
    """
    order = rng.permutation(len(examples))
    ends = np.cumsum([len(examples[i]) for i in order])
    count = int(-(-ends[-1] // batch_tokens))
    starts = np.concatenate([[0], ends[:-1]])
    shares = np.minimum(starts * count // ends[-1], count - 1)
    batches = [[examples[i] for i in order[shares == share]] for share in range(count)]
    return [batch for batch in batches if batch]


def micro_batches(examples: Sequence[Example]) -> list[list[Example]]:
    """A batch sorted by length and cut where that saves more padding than another pass costs."""
    parts = cut_by_length([[example] for example in examples], PACKED_PASS)
    return [[example for group in part for example in group] for part in parts]


def cut_by_length(groups: Sequence[Sequence[Example]], cost: int = PADDED_PASS) -> list[list[Sequence[Example]]]:
    """Groups of examples that pass together, sorted by their longest one and cut where that is cheapest.

    The cuts give the least sum over micro-batches of rows x longest padded length + `cost`.
    """
    ordered = sorted(groups, key=_longest)
    widths = [padded_length(_longest(group)) for group in ordered]
    rows = np.cumsum([0, *(len(group) for group in ordered)]).tolist()
    ends = [i for i in range(1, len(widths) + 1) if i == len(widths) or widths[i] != widths[i - 1]]
    best: dict[int, tuple[int, list[int]]] = {0: (0, [])}
    for end in ends:
        best[end] = min(
            (spent + (rows[end] - rows[start]) * widths[end - 1] + cost, [*cuts, end])
            for start, (spent, cuts) in best.items()
        )
    cuts = best[len(ordered)][1]
    return [ordered[start:end] for start, end in zip([0, *cuts], cuts, strict=False)]


def _longest(group: Sequence[Example]) -> int:
    return max(map(len, group))


def padded_length(length: int) -> int:
    """A row's length in a batch of its own."""
    return -(-length // PAD_MULTIPLE) * PAD_MULTIPLE


def sample_by_temperature(examples: Sequence[Example], temperature: float, rng: np.random.Generator) -> list[Example]:
    """As many examples as came, with tasks drawn by p_t = n_t^(1/T) / sum_i n_i^(1/T) from their n_t examples.

    T = 1 draws tasks as large as they are, a large T all alike (Arivazhagan et al. 2019, arXiv 1907.05019, there for
    languages; multilingual BERT's pretraining is T = 1 / 0.7).
    A task's examples come in a random order, and again from the start in another once all have been drawn.
    """
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.task, []).append(example)
    sizes = np.array([len(group) for group in groups.values()], dtype=np.float64) ** (1 / temperature)
    drawn: list[Example] = []
    for group, count in zip(groups.values(), rng.multinomial(len(examples), sizes / sizes.sum()), strict=True):
        turns = -(-int(count) // len(group))
        order = np.concatenate([np.zeros(0, np.int64), *(rng.permutation(len(group)) for _ in range(turns))])
        drawn += [group[i] for i in order[:count]]
    return drawn


def evaluation_batches(examples: Sequence[Example], batch_tokens: int) -> list[list[Example]]:
    """All examples once, sorted by length."""
    ordered = sorted(examples, key=len)
    return [[ordered[i] for i in batch] for batch in pack([len(example) for example in ordered], batch_tokens)]
