"""One spelling for owners and records, whatever file they come from."""

import json
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from client.data.identity import hash_texts, normalise, owner_of
from client.data.loading import read_records
from client.data.readiness import survey
from client.institution import Data
from shared.errors import DataError
from shared.model.backbone import fingerprint, load_tokenizer
from shared.tasks import Task, build_task
from shared.tasks.text_classification import TextClassificationSpec

TASK = build_task("notes", TextClassificationSpec(type="text-classification", labels=("a", "b")))
SAME_OWNERS: tuple[Sequence[Any], ...] = (
    (7, 7.0, Decimal("7.00"), "7", "007", " 7\t", "7.0", "7.000", "\uff17", "\u0667", "\ufeff7", b"7"),
    ("P-07", "p-7", "P\u201107", " P-007 ", "P\u00ad-7", "\uff30-7"),
    ("Jos\u00e9  Ruiz", "JOSE\u0301 RUIZ", "jos\u00e9\u00a0ruiz", "Jos\u00e9\n Ruiz\u200b"),
    ("stra\u00dfe", "STRASSE"),
    (0, 0.0, -0.0, "0", "000"),
    (-7, "-7", "-07", "\u22127"),
    (True, "true", "True"),
    (date(2026, 1, 5), "2026-01-05", "2026-1-5"),
)
NOBODY = (
    None,
    float("nan"),
    float("inf"),
    Decimal("NaN"),
    "",
    "  \t",
    "\u200b",
    "nan",
    "NaN",
    " None ",
    "null",
    "<NA>",
    "NaT",
)


@pytest.mark.parametrize("spellings", SAME_OWNERS, ids=lambda spellings: str(spellings[0]))
def test_spellings_of_one_owner(spellings: Sequence[Any]) -> None:
    assert len({normalise(value) for value in spellings}) == 1


def test_others_are_others() -> None:
    others = [7, "70", "P7", "P-7", "P-70", 7.5, -7, "1-11", "11-1", "1.12", "11.2", "Ruiz", "Ru\u00edz", "Null", "Nan"]
    assert len({normalise(value) for value in others}) == len(others)


@pytest.mark.parametrize("value", [*NOBODY, [], ["7"], {"id": 7}], ids=repr)
def test_what_names_nobody_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"expected an owner in the column 'who' \(group_by\), but .* came"):
        owner_of({"who": value, "text": "x"}, TASK, "who")


def test_a_normal_form_is_its_own() -> None:
    for value in [value for spellings in SAME_OWNERS for value in spellings]:
        assert normalise(normalise(value)) == normalise(value)


def test_a_record_is_its_input_by_letters_and_digits() -> None:
    text = "The Caf\u00e9\u2019s bill: 300 euros."
    forms = [
        "the cafe\u0301's   bill 300 euros",
        "THE CAF\u00c9S\u00a0BILL:\n300 EUROS!",
        "\ufeffThe Ca\u00adf\u00e9s bill 300 \uff25uros",
    ]
    assert {hash_texts([form]) for form in forms} == {hash_texts([text])}
    assert hash_texts(["a b", "c"]) != hash_texts(["a", "b c"]), "two texts that only join alike"
    assert len({hash_texts([text]) for text in ("+", "-", "", "\U0001f44d", "\U0001f44e", "\ud800")}) == 6
    assert len(hash_texts(["x"])) == 64


def test_neither_labels_nor_other_columns_make_another_record() -> None:
    one = owner_of({"text": "We pay.", "label": "a"}, TASK, None)
    assert one == owner_of({"text": "we  pay", "label": "b", "ward": 3, "label_was": None}, TASK, None)
    assert one != owner_of({"text": "We paid.", "label": "a"}, TASK, None)


CASES: dict[str, tuple[list[dict[str, Any]], str, str]] = {
    # As pandas writes a float column with gaps, a column of JSON with null or without, and a column that is not there.
    "nan": ([{"patient": float("nan")}, {"patient": 101.0}, {"patient": float("nan")}], "patient", "none came"),
    "null": ([{"patient": None}, {"patient": "P1"}, {}], "patient", "none came"),
    "misspelt": (
        [{"patient": "P1"}, {"patient": "P2"}, {"patient": "P3"}],
        "Patient",
        "only ['label', 'patient', 'text']",
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_missing_owner_is_named_by_file_and_line(tmp_path: Path, case: str, suffix: str) -> None:
    found, column, said = CASES[case]
    rows = [{"text": f"text {n}", "label": "a", **row} for n, row in enumerate(found)]
    path = tmp_path / f"notes{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([{"patient": None} | row for row in rows]), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = Data(train=path, group_by=column)
    bad = [1, 2, 3] if case == "misspelt" else [1, 3]
    with pytest.raises(DataError) as caught:
        read_records(path, TASK, source)
    assert all(f"line {line}: expected an owner in the column" in str(caught.value) for line in bad)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert "line 2" not in str(caught.value) or case == "misspelt"


def test_the_doctor_finds_it_too(tmp_path: Path, tiny_bert: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text(
        '{"text": "x", "label": "a", "who": null}\n{"text": "y", "label": "a", "who": 7}\n', encoding="utf-8"
    )
    tasks: dict[str, Task] = {"notes": TASK}
    tokenizer = load_tokenizer(str(tiny_bert), fingerprint(tiny_bert))
    report = survey({"notes": Data(train=path, group_by="who")}, tasks, tokenizer, 32, bytes(32))["notes"]
    assert [number for number, _ in report.files["train"].bad] == [1]
