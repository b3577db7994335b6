"""ROUGE for summaries: the scores by the field's library, and the greedy search for the sentences that score best.

Lin 2004. A text is its lower-case runs of ASCII letters and digits, as in the `rouge-score` library.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

METRICS = ("rouge1", "rouge2", "rougeLsum")


def words(text: str) -> list[str]:
    """The words of a text as ROUGE sees them, not stemmed."""
    from rouge_score import tokenize

    found: list[str] = tokenize.tokenize(text, None)
    return found


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of `n` tokens."""
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))


def f1(reference: Sequence[str], candidate: Sequence[str], metrics: tuple[str, ...] = METRICS) -> dict[str, float]:
    """F1 of a candidate summary against one reference, words stemmed; both are lists of sentences.

    Args:
        reference: Sentences of the summary that people wrote.
        candidate: Sentences of the summary to judge.
        metrics: Some of `METRICS`; rougeLsum is the summary-level one, over sentences.
    """
    scores = _scorer(metrics).score("\n".join(reference), "\n".join(candidate))
    return {metric: float(scores[metric].fmeasure) for metric in metrics}


@lru_cache(maxsize=1 << 16)
def greedy_oracle(sentences: tuple[str, ...], summary: tuple[str, ...], most: int) -> tuple[int, ...]:
    """The sentences that together come closest to a summary, found greedily, in document order.

    Nallapati et al. 2017, section 2.1, as in BERTSUM: the sentence that raises the sum of ROUGE-1 and ROUGE-2 F1 most
    is added, the first one among equals, until none raises it or there are `most`. N-grams are counted as ROUGE counts
    them, but within sentences only, so that the choice does not depend on order; words are not stemmed.

    Args:
        sentences: The document.
        summary: The sentences of its summary.
        most: The most sentences to choose.

    Returns:
        Their indices; none where no sentence shares a word with the summary.
    """
    document, reference = [words(sentence) for sentence in sentences], [words(sentence) for sentence in summary]
    orders = [_Overlap(document, reference, n) for n in (1, 2)]
    chosen: list[int] = []
    best = 0.0
    while len(chosen) < min(most, len(sentences)):
        gains = sum(order.f1_with_each() for order in orders)
        assert isinstance(gains, np.ndarray)
        gains[chosen] = -1.0
        choice = int(gains.argmax())
        if gains[choice] <= best:
            break
        best = float(gains[choice])
        chosen.append(choice)
        for order in orders:
            order.add(choice)
    return tuple(sorted(chosen))


class _Overlap:
    """How much of a reference's n-grams a growing set of sentences holds.

    `counts` [sentences, distinct n-grams of the reference] and `sizes` [sentences] are over the sentences,
    `wanted` [distinct n-grams] over the reference, `chosen` and `size` over the chosen set.
    """

    def __init__(self, document: Sequence[Sequence[str]], reference: Sequence[Sequence[str]], n: int) -> None:
        found = Counter(gram for sentence in reference for gram in ngrams(sentence, n))
        column: dict[Hashable, int] = {gram: i for i, gram in enumerate(found)}
        grams = [ngrams(sentence, n) for sentence in document]
        self.wanted = np.array([*found.values()], dtype=np.int64)
        self.counts = np.zeros((len(document), len(found)), dtype=np.int64)
        for row, sentence in enumerate(grams):
            for gram in sentence:
                if gram in column:
                    self.counts[row, column[gram]] += 1
        self.sizes = np.array([len(sentence) for sentence in grams])
        self.chosen = np.zeros_like(self.wanted)
        self.size = 0

    def f1_with_each(self) -> np.ndarray:
        """F1 of the chosen set with each sentence added, [sentences]: 2 hits / (its n-grams + the reference's)."""
        hits = np.minimum(self.chosen + self.counts, self.wanted).sum(1)
        scores: np.ndarray = 2 * hits / np.maximum(self.size + self.sizes + self.wanted.sum(), 1)
        return scores

    def add(self, sentence: int) -> None:
        self.chosen += self.counts[sentence]
        self.size += int(self.sizes[sentence])


@cache
def _scorer(metrics: tuple[str, ...]) -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    return RougeScorer(list(metrics), tokenizer=DefaultTokenizer(use_stemmer=True))
