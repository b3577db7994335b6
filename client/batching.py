"""Length-bucketed batches under a token budget: little padding, steady memory, a seeded order."""

from collections.abc import Sequence

import numpy as np

from shared.model import PAD_MULTIPLE
from shared.tasks import Example

BUCKETS_OF = 16
"""Examples are sorted by length within runs of about this many batches: little padding, yet a random order."""


def pack(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Cut positions 0..n-1, in the given order, into batches of at most `batch_tokens` padded sub-tokens.

    A row longer than the budget is a batch of its own.
    """
    batches: list[list[int]] = []
    width = 0
    for position, length in enumerate(lengths):
        padded = -(-length // PAD_MULTIPLE) * PAD_MULTIPLE
        if batches and max(width, padded) * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(position)
            width = max(width, padded)
        else:
            batches.append([position])
            width = padded
    return batches


def training_batches(examples: Sequence[Example], batch_tokens: int, rng: np.random.Generator) -> list[list[Example]]:
    """One epoch in random order: every example once, tasks mixed, similar lengths together."""
    order = rng.permutation(len(examples))
    mean_length = sum(len(example) for example in examples) / len(examples)
    run = max(1, int(BUCKETS_OF * batch_tokens / mean_length))
    batches = []
    for start in range(0, len(order), run):
        ordered = sorted(order[start : start + run], key=lambda i: len(examples[i]))
        packed = pack([len(examples[i]) for i in ordered], batch_tokens)
        batches += [[examples[ordered[position]] for position in batch] for batch in packed]
    return [batches[i] for i in rng.permutation(len(batches))]


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
