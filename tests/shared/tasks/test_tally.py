"""Scores from sums: of the exact ones they are `Task.score`'s own, which sklearn, seqeval and ROUGE compute."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from shared.tasks import TASK_TYPES, Task, TaskSpec, build_task
from shared.tasks.tags import begun

SPECS: TypeAdapter[TaskSpec] = TypeAdapter(TaskSpec)
WORDS = ("pay", "the", "rent", "never", "court", "a", "doctor")
Rng = np.random.Generator


def make(**spec: Any) -> Task:
    return build_task("mine", SPECS.validate_python(spec))


def sentence(rng: Rng, most: int = 6) -> str:
    return " ".join(rng.choice(WORDS, rng.integers(1, most)))


def one_label(task: Task, rng: Rng) -> tuple[Any, Any]:
    return {"label": str(rng.choice(task.labels))}, str(rng.choice(task.labels))


def some_labels(task: Task, rng: Rng) -> tuple[Any, Any]:
    truth, found = ([label for label in task.labels if rng.random() < 0.4] for _ in range(2))
    return {"labels": truth}, found


def tags(task: Task, rng: Rng) -> tuple[Any, Any]:
    every = ["O", "O", "O", *(f"{prefix}-{kind}" for kind in task.labels for prefix in "BI")]
    truth = begun([str(tag) for tag in rng.choice(every, rng.integers(1, 9))])
    found = [tag if rng.random() < 0.8 else str(rng.choice(every)) for tag in truth]
    return {"tags": truth}, begun(found)


def answer(task: Task, rng: Rng) -> tuple[Any, Any]:
    return {"answers": [{"text": sentence(rng)}] if rng.random() < 0.7 else []}, sentence(
        rng
    ) if rng.random() < 0.8 else ""


def summary(task: Task, rng: Rng) -> tuple[Any, Any]:
    record = {"sentences": [sentence(rng), sentence(rng)], "summary": [sentence(rng)], "oracle": [0]}
    return record, {"text": [sentence(rng)]}


def places(task: Task, rng: Rng) -> tuple[Any, Any]:
    return {}, [
        {"words": {str(rng.choice(WORDS)): 0.5}, "truth": str(rng.choice(WORDS)), "log_likelihood": -1.0}
        for _ in range(rng.integers(1, 4))
    ]


def pairs(task: Task, rng: Rng) -> tuple[Any, Any]:
    return {}, [{"truth": bool(rng.random() < 0.5), "found": bool(rng.random() < 0.5)} for _ in range(4)]


def text(task: Task, rng: Rng) -> tuple[Any, Any]:
    return {"target": sentence(rng)}, sentence(rng)


LABELS = ["a", "b", "c", "d"]
Draw = Callable[[Task, Rng], tuple[Any, Any]]
CASES: list[tuple[Task, Draw]] = [
    (make(type="text-classification", labels=LABELS), one_label),
    (make(type="text-classification", labels=LABELS, multi_label=True), some_labels),
    (make(type="text-pair-classification", labels=LABELS[:2]), one_label),
    (make(type="relation-extraction", labels=LABELS, no_relation="a"), one_label),
    (make(type="relation-extraction", labels=LABELS), one_label),
    (make(type="token-classification", types=["Drug", "Dose"]), tags),
    (make(type="question-answering"), answer),
    (make(type="extractive-summarization"), summary),
    (make(type="fill-mask"), places),
    (make(type="next-sentence-prediction", strangers="document"), pairs),
    (make(type="text-generation"), text),
]


def drawn(task: Task, draw: Draw, records: int, seed: int) -> tuple[Sequence[Any], Sequence[Any], np.ndarray]:
    """Records, predictions, and what each adds to the sums."""
    rng = np.random.default_rng(seed)
    made = [draw(task, rng) for _ in range(records)]
    assert task.tally
    return *zip(*made, strict=True), np.array([task.tally.count(*each) for each in made])  # type: ignore[return-value]


@pytest.mark.parametrize(("task", "draw"), CASES, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("records", [1, 2, 7, 60])
def test_scores_of_exact_sums_are_the_task_s_own(task: Task, draw: Draw, records: int) -> None:
    assert task.tally
    for seed in range(8):
        truth, found, counts = drawn(task, draw, records, seed)
        scores, expected = task.tally.scores(counts.sum(0)), task.score(truth, found)
        assert task.metric in scores
        assert scores == pytest.approx({name: expected[name] for name in scores}, abs=1e-9)


@pytest.mark.parametrize(("task", "draw"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_whatever_the_noise_scores_are_in_their_range(task: Task, draw: Draw) -> None:
    assert task.tally
    _, _, counts = drawn(task, draw, 20, 0)
    rng = np.random.default_rng(1)
    assert (counts >= 0).all()
    for deviation in (0.1, 3.0, 1000.0):
        for _ in range(50):
            noisy = counts.sum(0) + rng.normal(0, deviation, counts.shape[1])
            for name, value in task.tally.scores(noisy, deviation).items():
                assert (-1 if name == "mcc" else 0) <= value <= 1
    assert task.metric in task.tally.scores(np.full(counts.shape[1], -1.0), 1.0)


@pytest.mark.parametrize(("task", "draw"), CASES[:1] + CASES[2:5] + CASES[6:8] + CASES[10:])
def test_a_plain_record_adds_no_more_than_one(task: Task, draw: Draw) -> None:
    _, _, counts = drawn(task, draw, 200, 2)
    assert np.linalg.norm(counts, axis=1).max() <= 1 + 1e-12


def test_a_label_that_only_the_noise_knows_is_not_averaged() -> None:
    task = make(type="text-classification", labels=LABELS)
    assert task.tally
    sums = np.zeros((3, 4))
    sums[0] = 500.0, 500.0, 3.0, 0.0  # the third is within the noise
    assert task.tally.scores(sums.ravel(), 10.0)["macro_f1"] == 1.0
    assert task.tally.scores(sums.ravel())["macro_f1"] == 1.0


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "sentence-similarity"},
        {"type": "next-sentence-prediction", "strangers": "pool"},
        {"type": "text-generation", "metric": "bleu"},
    ],
)
def test_what_is_no_sum_over_records_has_no_tally(spec: dict[str, Any]) -> None:
    assert make(**spec).tally is None


def test_every_type_is_looked_at() -> None:
    assert {type(task) for task, _ in CASES} | {TASK_TYPES["sentence-similarity"]} == set(TASK_TYPES.values())
