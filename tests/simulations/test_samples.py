"""The demonstration corpora are what their sources make, legal, balanced, and honest about generalisation."""

import json
import re
from collections import Counter
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline

from shared.errors import ConfigError
from simulations.samples import INSTITUTIONS, SAMPLES, SPLITS, author, sample_path

TASKS = [(institution, task) for institution, tasks in INSTITUTIONS.items() for task in tasks]
CLASSIFICATION = {
    ("law_firm", "clauses"): {"confidentiality", "termination", "liability", "payment", "governing_law"},
    ("bank", "clauses"): {"confidentiality", "termination", "liability", "payment", "governing_law"},
    ("bank", "sentiment"): {"positive", "neutral", "negative"},
}
TYPES = {"hospital": {"Disease", "Drug"}, "law_firm": {"Party", "Date"}, "bank": {"Company"}}
SIZES = {"train": (240, 330), "validation": (40, 60), "test": (80, 120)}
A_DATE = re.compile(
    r"\b(january|february|march|april|june|july|august|september|october|november|december|(19|20)\d\d)\b"
)


@cache
def records(institution: str, task: str, split: str) -> list[dict[str, Any]]:
    with sample_path(institution, task, split).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def text_of(record: dict[str, Any]) -> str:
    """The text of a record of any task, casefolded."""
    text = record.get("text") or record.get("context") or " ".join(record["tokens"])
    assert isinstance(text, str)
    return text.casefold()


def spans(record: dict[str, Any]) -> list[tuple[str, str]]:
    """(type, casefolded name) of every entity of a record."""
    found: list[tuple[str, list[str]]] = []
    for token, tag in zip(record["tokens"], record["tags"], strict=True):
        if tag.startswith("B-"):
            found.append((tag[2:], [token]))
        elif tag.startswith("I-"):
            found[-1][1].append(token)
    return [(kind, " ".join(words).casefold()) for kind, words in found]


@cache
def names(split: str) -> set[str]:
    """Every entity name of a split, over all institutions."""
    return {name for place in INSTITUTIONS for record in records(place, "entities", split) for _, name in spans(record)}


def test_the_files_are_what_their_sources_make(capsys: pytest.CaptureFixture[str]) -> None:
    assert author.main(["--check"]) == 0
    assert "21 files agree" in capsys.readouterr().out


def test_check_names_the_file_that_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("simulations.samples.SAMPLES", tmp_path)
    assert author.main([]) == 0
    spoiled = tmp_path / "bank" / "clauses.test.jsonl"
    spoiled.write_text(spoiled.read_text(encoding="utf-8").replace("governing_law", "payment", 1), encoding="utf-8")
    assert author.main(["--check"]) == 1
    assert str(spoiled) in capsys.readouterr().err


def test_no_other_files_lie_beside_the_corpora() -> None:
    expected = {sample_path(*task, split) for task in TASKS for split in SPLITS}
    assert set(SAMPLES.rglob("*.jsonl")) == expected


@pytest.mark.parametrize(
    "wrong", [("school", "entities", "train"), ("bank", "notes_qa", "train"), ("bank", "clauses", "dev")]
)
def test_an_unknown_sample_is_refused(wrong: tuple[str, str, str]) -> None:
    with pytest.raises(ConfigError, match="name one of those"):
        sample_path(*wrong)


@pytest.mark.parametrize("institution", INSTITUTIONS)
@pytest.mark.parametrize("split", SPLITS)
def test_sizes(institution: str, split: str) -> None:
    counts = [len(records(institution, task, split)) for task in INSTITUTIONS[institution]]
    low, high = SIZES[split]
    assert low <= sum(counts) <= high
    assert split != "test" or min(counts) >= 20


@pytest.mark.parametrize("place", CLASSIFICATION)
@pytest.mark.parametrize("split", SPLITS)
def test_classes_are_legal_and_balanced(place: tuple[str, str], split: str) -> None:
    rows = records(*place, split)
    assert all(row.keys() == {"text", "label"} for row in rows)
    counts = Counter(row["label"] for row in rows)
    assert counts.keys() == CLASSIFICATION[place]
    mean = len(rows) / len(counts)
    assert all(0.8 * mean <= count <= 1.2 * mean for count in counts.values())
    assert all(8 <= len(row["text"].split()) <= 25 for row in rows)


@pytest.mark.parametrize("institution", INSTITUTIONS)
@pytest.mark.parametrize("split", SPLITS)
def test_tags_are_legal(institution: str, split: str) -> None:
    rows = records(institution, "entities", split)
    assert all(row.keys() == {"tokens", "tags"} and len(row["tokens"]) == len(row["tags"]) for row in rows)
    assert all(token and token == token.strip() for row in rows for token in row["tokens"])
    for row in rows:
        for before, tag in pairwise(["O", *row["tags"]]):
            assert tag[0] != "I" or before in (f"B-{tag[2:]}", tag), row
    assert {tag[2:] for row in rows for tag in row["tags"] if tag != "O"} == TYPES[institution]
    counts = Counter(kind for row in rows for kind, _ in spans(row))
    assert max(counts.values()) <= 2 * min(counts.values())
    words = [sum(any(letter.isalnum() for letter in token) for token in row["tokens"]) for row in rows]
    assert all(8 <= count <= 25 for count in words)
    without = sum(not spans(row) for row in rows) / len(rows)
    assert 0.1 <= without <= 0.15
    assert sum(len(spans(row)) > 1 for row in rows) / len(rows) >= 0.1


@pytest.mark.parametrize("institution", INSTITUTIONS)
def test_nothing_that_another_institution_would_tag_stands_untagged(institution: str) -> None:
    every = names("train") | names("validation") | names("test")
    for split in SPLITS:
        for row in records(institution, "entities", split):
            tagged = zip(row["tokens"], row["tags"], strict=True)
            rest = " ".join(token if tag == "O" else "_" for token, tag in tagged).casefold()
            assert not A_DATE.search(rest), rest
            assert not [name for name in every if re.search(rf"\b{re.escape(name)}\b", rest)], rest


@pytest.mark.parametrize("split", SPLITS)
def test_answers_stand_where_they_say(split: str) -> None:
    rows = records("hospital", "notes_qa", split)
    assert all(row.keys() == {"id", "context", "question", "answers"} for row in rows)
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(35 <= len(row["context"].split()) <= 60 for row in rows)
    for row in rows:
        for answer in row["answers"]:
            start = answer["start"]
            assert answer["text"]
            assert row["context"][start : start + len(answer["text"])] == answer["text"]
            assert row["context"].count(answer["text"]) == 1
    unanswerable = sum(not row["answers"] for row in rows) / len(rows)
    assert 0.2 <= unanswerable <= 0.25


def test_no_row_occurs_twice() -> None:
    rows = [
        (text_of(row), row.get("question")) for place in TASKS for split in SPLITS for row in records(*place, split)
    ]
    assert not [row for row, count in Counter(rows).items() if count > 1]


def test_splits_share_no_text() -> None:
    texts = {split: {text_of(row) for place in TASKS for row in records(*place, split)} for split in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert not texts[one] & texts[other]


def test_splits_share_no_sentence_of_a_note() -> None:
    sentences = {
        split: {part for row in records("hospital", "notes_qa", split) for part in text_of(row).split(". ")}
        for split in SPLITS
    }
    for one, other in combinations(SPLITS, 2):
        assert not sentences[one] & sentences[other]


def test_splits_share_no_wording_of_an_entity_sentence() -> None:
    wordings: dict[str, set[str]] = {split: set() for split in SPLITS}
    for split, found in wordings.items():
        for place in INSTITUTIONS:
            for row in records(place, "entities", split):
                tagged = zip(row["tokens"], row["tags"], strict=True)
                found.add(" ".join(token if tag == "O" else tag[2:] for token, tag in tagged).casefold())
    for one, other in combinations(SPLITS, 2):
        assert not wordings[one] & wordings[other]


@pytest.mark.parametrize(("one", "other"), [(a, b) for a in SPLITS for b in SPLITS if a != b])
def test_the_entities_of_one_split_occur_nowhere_in_another(one: str, other: str) -> None:
    """Neither as an entity, nor inside one, nor in the text of any other task."""
    assert not names(one) & names(other)
    texts = [text_of(row) for place in TASKS for row in records(*place, other)]
    assert not [name for name in names(one) for text in texts if re.search(rf"\b{re.escape(name)}\b", text)]


@pytest.mark.parametrize("place", CLASSIFICATION)
def test_counting_words_is_not_enough(place: tuple[str, str]) -> None:
    """A linear model on word counts learns something, but leaves room for a model that reads."""
    train, test = records(*place, "train"), records(*place, "test")
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, max_iter=1000))
    model.fit([row["text"] for row in train], [row["label"] for row in train])
    predicted = model.predict([row["text"] for row in test])
    score = f1_score([row["label"] for row in test], predicted, average="macro")
    assert 1.5 / len(CLASSIFICATION[place]) < score < 0.85
