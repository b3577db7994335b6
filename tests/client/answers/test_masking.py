"""Requests without personal data: the model sees none, and answers lead back to the text that was given."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from client.answers import masking as room
from client.answers.answering import Question, answers_of, question_of
from client.answers.masking import Masking, in_given, open_masking
from client.data.masking import finding
from client.data.masking.finding import Found
from client.data.masking.options import Mask
from client.serving import running
from client.serving.settings import Settings
from collegium.__main__ import app
from shared.errors import ConfigError
from shared.inference.model import ReleasedModel
from simulations.attacks.stage import EVERY_QUESTION, EVERY_TASK

seen: list[str] = []
"""What the finder was shown."""


def find(texts: Iterable[str]) -> Iterable[list[Found]]:
    """Finds the one person."""
    for text in texts:
        seen.append(text)
        yield [Found("name", *match.span()) for match in re.finditer(r"Xylophone( Qvist)?", text)]


MASKING = Masking(find, bytes(32))


def masked(model: ReleasedModel, given: Any, *tasks: str) -> Question:
    return question_of(model, tasks, [given], strict=True, masking=MASKING)


def naming(field: str, value: Any) -> Any:
    """What a record holds, with somebody's name behind it."""
    if isinstance(value, str):
        return f"{value} Xylophone."
    if field == "sentences":
        return [naming("", one) for one in value]
    return [*value, "Xylophone"] if field == "tokens" else value


@pytest.mark.parametrize("task", EVERY_TASK)
def test_no_model_reads_a_name(released: ReleasedModel, task: str) -> None:
    given = {field: naming(field, value) for field, value in EVERY_QUESTION[task].items()}
    question = masked(released, given, task)
    plain = question_of(released, [task], [given], strict=True)
    shown, hidden = (
        " ".join(released.tokenizer.decode(example.input_ids) for example in each.examples)
        for each in (plain, question)
    )
    assert "xylophone" in shown
    assert "xylophone" not in hidden
    (answers,) = answers_of(released, question, released.infer(question.examples))
    assert json.dumps(answers)
    if task == "summaries":
        assert answers[task]["summary_text"] in given["sentences"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("Mr Xylophone  takes Aspirin.", {"Xylophone": (3, 12), "Aspirin": (20, 27)}),
        ({"tokens": ["Mr", "Xylophone", "takes", "Aspirin"]}, {"Xylophone": (3, 12), "Aspirin": (19, 26)}),
    ],
)
def test_entities_are_where_they_were_given(released: ReleasedModel, given: Any, words: dict[str, Any]) -> None:
    question = masked(released, given, "entities")
    (example,) = question.examples
    logits = np.zeros((len(example), 5), np.float32)
    for row, word in enumerate(example.decoding["words"]):
        logits[row, 1 if word in (1, 3) else 0] = 9  # the tag after O begins an entity
    (answers,) = answers_of(released, question, [logits])
    assert {each["word"]: (each["start"], each["end"]) for each in answers["entities"]} == words


def spoken(question: Question, start: int, end: int) -> np.ndarray:
    """Logits that answer with these characters of the masked context, none where both are 0."""
    (example,) = question.examples
    logits = np.full((len(example), 2), -9, np.float32)
    places, first = example.decoding["places"], example.decoding["first"]
    inside = [first + i for i, (left, right) in enumerate(places) if left < end and right > start] or [0]
    logits[inside[0], 0] = logits[inside[-1], 1] = 9
    return logits


@pytest.mark.parametrize(
    ("part", "answer"),
    [("\\w+ \\w+ paid", "Xylophone Qvist paid"), ("on Monday", "on Monday"), ("Mr \\w+", "Mr Xylophone"), ("$^", "")],
)
def test_answers_are_where_they_were_given(released: ReleasedModel, part: str, answer: str) -> None:
    context = "Rent: Mr Xylophone Qvist paid on Monday."
    question = masked(released, {"context": context, "question": "Did Qvist pay?"}, "questions")
    assert question.asked[0].masked
    texts = question.asked[0].masked[0]
    assert "Qvist" not in texts["question", 0].text, "a name of the context is one in the question"
    match = re.search(part, texts["context", 0].text)
    (answers,) = answers_of(released, question, [spoken(question, *(match.span() if match else (0, 0)))])
    found = answers["questions"]
    start = context.find(answer)
    assert (found["answer"], found["start"], found["end"]) == (answer, start, start + len(answer))
    within = in_given({"start": 10, "end": 11}, {"context": context}, released.tasks["questions"], texts)
    assert within == {"start": 9, "end": 18, "answer": "Xylophone"}, "a piece of what was replaced is all of it"


def test_tasks_that_read_the_same_have_it_looked_at_once_and_the_same_becomes_the_same(released: ReleasedModel) -> None:
    seen.clear()
    text = "Xylophone came late."
    first = masked(released, text, "topics", "codes")
    assert seen == [text]
    again = question_of(released, ["topics"], ["Other.", text], strict=True, masking=MASKING)
    assert first.examples[0].input_ids == again.examples[1].input_ids


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "mask.toml"
    file.write_text(f'model = "models/en"\nsha256 = "{"0" * 64}"\nkinds = ["name"]\n')
    return file


def test_a_file_says_how(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[Mask]()
    monkeypatch.setattr(room, "open_finder", asked.append)
    open_masking(file)
    assert asked == [Mask(model=file.parent / "models/en", sha256="0" * 64, kinds=("name",))]
    monkeypatch.undo()
    monkeypatch.setattr(finding, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"Expected presidio, .* pip install 'collegium\[mask\]'"):
        open_masking(file)
    file.write_text("modle = 3\n")
    with pytest.raises(ConfigError, match=r"mask\.toml: .*modle is not a known key"):
        open_masking(file)


def test_the_commands_mask(everything: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen.clear()
    monkeypatch.setattr(room, "open_finder", lambda how: find)
    run = CliRunner().invoke
    told = ["--task", "topics", "--text", "Xylophone came.", "--mask", str(file)]
    result = run(app, ["predict", str(everything), *told])
    assert (result.exit_code, seen) == (0, ["Xylophone came."]), result.output
    records = file.with_name("new.jsonl")
    records.write_text('{"text": "Xylophone left."}\n')
    result = run(app, ["predict", str(everything), *told[:2], "--file", str(records), *told[4:]])
    assert (result.exit_code, seen[1:]) == (0, ["Xylophone left."]), result.output
    served = list[Settings]()
    monkeypatch.setattr(running, "serve", lambda settings, **_: served.append(settings))
    assert run(app, ["serve", str(everything), "--mask", str(file)]).exit_code == 0
    assert [settings.mask for settings in served] == [file]
