"""The fast greedy search against the obvious slow one, and the scores against numbers worked out by hand."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from shared.tasks import rouge

TEXTS = st.lists(
    st.lists(st.sampled_from(["the", "Court", "paid", "ten", "mg,", "daily.", "--", "court's", "é"]), max_size=7).map(
        " ".join
    ),
    max_size=12,
)


def bag(sentences: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    grams: Counter[tuple[str, ...]] = Counter()
    for sentence in sentences:
        tokens = rouge.words(sentence)
        grams.update(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    return grams


def worth(chosen: Sequence[str], summary: Sequence[str]) -> float:
    """ROUGE-1 F1 + ROUGE-2 F1, counted afresh."""
    total = 0.0
    for n in (1, 2):
        ours, theirs = bag(chosen, n), bag(summary, n)
        total += 2 * (ours & theirs).total() / max(ours.total() + theirs.total(), 1)
    return total


def slow_oracle(sentences: Sequence[str], summary: Sequence[str], most: int) -> tuple[int, ...]:
    chosen: list[int] = []
    while len(chosen) < most:
        now = worth([sentences[i] for i in chosen], summary)
        best = None
        for candidate in set(range(len(sentences))) - set(chosen):
            then = worth([sentences[i] for i in [*chosen, candidate]], summary)
            if then > now:
                best, now = candidate, then
        if best is None:
            break
        chosen.append(best)
    return tuple(sorted(chosen))


@settings(max_examples=150, deadline=None)
@given(TEXTS, TEXTS, st.integers(1, 5))
def test_the_oracle_is_that_of_the_slow_search(sentences: list[str], summary: list[str], most: int) -> None:
    assert rouge.greedy_oracle(tuple(sentences), tuple(summary), most) == slow_oracle(sentences, summary, most)


@settings(max_examples=50, deadline=None)
@given(TEXTS, TEXTS)
def test_what_the_search_counts_is_what_the_library_counts(sentences: list[str], summary: list[str]) -> None:
    scorer = RougeScorer(["rouge1", "rouge2"])
    scores = scorer.score("".join(summary[:1]), "".join(sentences[:1]))
    assert worth(sentences[:1], summary[:1]) == pytest.approx(sum(score.fmeasure for score in scores.values()))
    rouge1 = scorer.score("\n".join(summary), "\n".join(sentences))["rouge1"].fmeasure
    ours, theirs = bag(sentences, 1), bag(summary, 1)
    assert 2 * (ours & theirs).total() / max(ours.total() + theirs.total(), 1) == pytest.approx(rouge1)


DOCUMENT = ("It rains.", "The court paid ten euros.", "Ten euros is what the court paid.", "She sleeps.", "It rains.")


@pytest.mark.parametrize(
    ("summary", "most", "oracle"),
    [
        (("The court paid ten euros.",), 3, (1,)),  # more would only dilute it
        (("She sleeps.", "The court paid."), 3, (1, 3)),  # in document order
        (("She sleeps.", "The court paid."), 1, (1,)),
        (("It rains.",), 3, (0,)),  # the first among equals
        (("Nothing alike",), 3, ()),
        (("...",), 3, ()),
        ((), 3, ()),
    ],
)
def test_oracles_worked_out_by_hand(summary: tuple[str, ...], most: int, oracle: tuple[int, ...]) -> None:
    assert rouge.greedy_oracle(DOCUMENT, summary, most) == oracle


def test_an_oracle_is_searched_once() -> None:
    before = rouge.greedy_oracle.cache_info().misses
    for _ in range(3):  # equal texts, not the same objects
        rouge.greedy_oracle(tuple(f"Sentence {i}." for i in range(300)), ("Sentence 7.",), 2)
    assert rouge.greedy_oracle.cache_info().misses == before + 1


def test_scores_worked_out_by_hand() -> None:
    reference, candidate = (
        ["The payments were late.", "She sleeps."],
        ["She was sleeping.", "The payment was made late."],
    )
    scores = rouge.f1(reference, candidate)
    # Stems: the payment were late she sleep / she was sleep the payment was made late. Five words are common to both,
    # and in the same order within their sentences; of the pairs of words only "the payment".
    assert scores == pytest.approx({"rouge1": 10 / 14, "rouge2": 2 / 12, "rougeLsum": 10 / 14})


def test_the_order_of_sentences_does_not_matter_to_rouge_lsum() -> None:
    first, second = "The court paid ten euros.", "Nobody slept at night."
    assert rouge.f1([first, second], [second, first])["rougeLsum"] == 1.0
    assert rouge.f1([first, second], [second, first], ("rouge2",)) == {"rouge2": pytest.approx(7 / 8)}


def test_an_empty_summary_scores_nothing() -> None:
    assert rouge.f1(["She sleeps."], []) == {"rouge1": 0.0, "rouge2": 0.0, "rougeLsum": 0.0}
