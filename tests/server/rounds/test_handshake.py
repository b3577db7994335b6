"""What is said before the first round about labels that do not meet."""

from server.rounds.handshake import describe, gaps
from server.rounds.replies import Holdings
from shared.tasks import build_task
from shared.tasks.question_answering import QuestionAnsweringSpec
from shared.tasks.text_classification import TextClassificationSpec

TASKS = {
    "clauses": build_task(
        "clauses", TextClassificationSpec(type="text-classification", labels=("payment", "liability", "term"))
    ),
    "qa": build_task("qa", QuestionAnsweringSpec(type="question-answering")),
}
BANK = Holdings({"clauses": {"train": 7}}, {"clauses": {"payment": 7, "liability": 0}})
FIRM = Holdings({"clauses": {"train": 5}, "qa": {"train": 2}}, {"clauses": {"payment": 5, "liability": 0, "term": 0}})


def test_an_institution_is_described_with_the_labels_it_lacks() -> None:
    assert describe("bank", BANK, TASKS) == [
        "bank takes part with clauses (7)",
        "bank does not annotate 'term' of clauses: it leaves their rows alone",
        "bank has no training record with 'liability' of clauses",
    ]
    assert describe("firm", Holdings({"qa": {"train": 2}}), TASKS) == ["firm takes part with qa (2)"]


def test_what_nobody_can_train_is_named() -> None:
    assert gaps({"bank": BANK}, TASKS) == [
        "No institution has a training record with 'liability', 'term' of clauses",
        "No institution holds qa: its head stays as it is",
    ]
    assert gaps({"bank": BANK}, TASKS, ["clinic", "firm"]) == [
        "Of those who have answered (not clinic, firm) none has a training record with 'liability', 'term' of clauses",
        "Of those who have answered (not clinic, firm) none holds qa: its head stays as it is",
    ]
    full = Holdings({"clauses": {"train": 1}, "qa": {"train": 1}}, {"clauses": {"liability": 1, "term": 1}})
    assert gaps({"bank": BANK, "firm": full}, TASKS) == []


def test_doubts_about_text_are_said_from_a_share_on() -> None:
    numbers = {"duplicate_rate": 0.25, "test_overlap_rate": 0.01, "cut_rate": 0.05, "rows": 9.0}
    lines = describe("firm", Holdings({"qa": {"train": 2}}, readiness={"qa": numbers}), TASKS)
    assert lines[1:] == [
        "firm: 25% of the records of qa repeat an earlier one",
        "firm: 5% of the records of qa are cut to backbone.max_length",
    ]


def test_counts_that_are_not_shared_are_not_made_up() -> None:
    hidden = Holdings({"clauses": {"train": 1}}, {"clauses": {"payment": 1, "liability": 1}}, counts="none")
    assert describe("bank", hidden, TASKS) == [
        "bank takes part with clauses (count not shared)",
        "bank does not annotate 'term' of clauses: it leaves their rows alone",
    ]
    about = Holdings({"qa": {"train": 1200}}, counts="rounded")
    assert describe("firm", about, TASKS) == ["firm takes part with qa (about 1200)"]
    assert "'term'" in gaps({"bank": hidden, "firm": about}, TASKS)[0]
    full = Holdings(
        {"clauses": {"train": 1}}, {"clauses": dict.fromkeys(("liability", "term", "payment"), 1)}, {}, "none"
    )
    assert gaps({"bank": full, "firm": about}, TASKS) == []
