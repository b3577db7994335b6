"""Ways to a new privacy budget for the same patients: other files, other spellings, other columns."""

import csv
import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w

from client.keys import generate_node_key
from client.opening import open_site
from client.privacy.account import Account
from shared.errors import BudgetError, DataError
from shared.model.multitask import MultiTaskModel, build_model
from simulations.attacks import Attack, Outcome
from simulations.attacks.stage import tiny_federation, write_tiny_bert

Rows = Sequence[Mapping[str, Any]]
Respelling = Callable[[Any], Any]
NOTES: Rows = [
    {
        "text": f"Visitor {patient} of the caf\u00e9 \u2013 seen on day {visit}, \u201cstable\u201d.",
        "label": ("payment", "liability")[patient % 2],
        "patient": (patient, f"P-{patient}")[patient % 2],
        "visit": visit,
    }
    for patient in range(1, 13)
    for visit in (1, 2)
]


def _text(respell: Callable[[str], str]) -> Respelling:
    return lambda value: respell(value) if isinstance(value, str) else value


EITHER: dict[str, Respelling] = {
    "as it was": lambda value: value,
    "upper case": _text(str.upper),
    "white space": _text(lambda text: f" {text}\u00a0 ".replace(" ", "\n ")),
    "decomposed": _text(lambda text: unicodedata.normalize("NFD", text)),
    "full width": _text(lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)),
    "invisible characters": _text("\u200b".join),
    "dashes": _text(lambda text: text.replace("\u2013", "-").replace("P-", "P\u2011")),
}
OWNERS: dict[str, Respelling] = EITHER | {
    "zeros before": lambda value: f"{value:05d}" if isinstance(value, int) else value.replace("P-", "P-00"),
    "numbers as text": str,
    "decimals": lambda value: float(value) if isinstance(value, int) else value,
    "decimals as text": lambda value: f"{value}.0" if isinstance(value, int) else value,
}
RECORDS: dict[str, Respelling] = EITHER | {
    "quotes": _text(lambda text: text.replace("\u201c", '"').replace("\u201d", '"')),
    "no punctuation": _text(lambda text: "".join(c for c in text if c.isalnum() or c.isspace())),
}
FILES: Mapping[str, Callable[[Rows], Rows]] = {
    "a column that no task reads": lambda rows: [{**row, "exported": "today"} for row in rows],
    "a column that no task reads, changed": lambda rows: [{**row, "visit": 0} for row in rows],
    "corrected labels": lambda rows: [{**row, "label": "payment"} for row in rows],
    "another order": lambda rows: rows[::-1],
    "a patient fewer": lambda rows: rows[2:],
    "a patient more": lambda rows: [*rows, {**rows[0], "text": "Somebody new.", "patient": 99}],
}
WRITERS = (".jsonl", ".csv", ".parquet")
UNNAMED = (None, float("nan"), "nan", "NaN", "None", "<NA>", "", " ")


@dataclass(frozen=True)
class Hospital:
    """A site with one file of notes, whose records have spent a first round."""

    folder: Path
    model: MultiTaskModel

    @classmethod
    def opened(cls, folder: Path, **policy: Any) -> "Hospital":
        """Make it in an empty folder, and train a round as far as the ledger is concerned."""
        (folder / "bert").mkdir()
        federation = tiny_federation(
            write_tiny_bert(folder / "bert"),
            ("hospital",),
            privacy={"epsilon": 4.0, "sampling_rate": 0.5},
            training={"weight_decay": 0.0, "head_dropout": 0.0},
            rounds={"weighting": "equal", "method": "ffa"},
        )
        values = federation.model_dump(mode="json", exclude_none=True)
        (folder / "federation.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
        generate_node_key(folder / "node.key")
        hospital = cls(folder, build_model(federation))
        with hospital.account(NOTES, **policy).spend(round=1):
            pass
        return hospital

    def account(
        self,
        rows: Rows,
        suffix: str = ".jsonl",
        *,
        column: str | None = "patient",
        runtime: Mapping[str, str] | None = None,
        **policy: Any,
    ) -> Account:
        """The account of these records, as the daemon would open it."""
        write(self.folder / f"notes{suffix}", rows)
        source = {"train": f"notes{suffix}", "validation": f"notes{suffix}"} | ({"group_by": column} if column else {})
        values = {"name": "hospital", "data": {"clauses": source}, "policy": policy, "runtime": dict(runtime or {})}
        (self.folder / "institution.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
        account = open_site(self.folder / "institution.toml", model=self.model).account
        assert account
        return account


def write(path: Path, rows: Rows) -> None:
    """Write records to a file of the format that its name says."""
    if path.suffix == ".parquet":
        texts = [{name: value if name != "patient" else str(value) for name, value in row.items()} for row in rows]
        pq.write_table(pa.Table.from_pylist(texts), path)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def respelt_owners(folder: Path) -> Outcome:
    """Patients under another spelling, only those whose spelling changes, with a new text each."""
    tries = [
        [
            {**row, "patient": way(row["patient"]), "text": f"New {n}."}
            for n, row in enumerate(NOTES)
            if name == "as it was" or str(way(row["patient"])) != str(row["patient"])
        ]
        for name, way in OWNERS.items()
    ]
    return _count(folder, ((rows, ".jsonl", "patient") for rows in tries if rows))


def respelt_records(folder: Path) -> Outcome:
    """Every text under another spelling, in a file that names no patient, and in one that names new ones."""
    tries = [
        [{**row, "patient": f"n{n}", "text": way(row["text"])} for n, row in enumerate(NOTES)]
        for way in RECORDS.values()
    ]
    return _count(folder, ((rows, ".jsonl", column) for rows in tries for column in ("patient", None)))


def other_files(folder: Path) -> Outcome:
    """The same records in another order, format or table, with and without their patients."""
    tries = [(change(NOTES), suffix) for change in FILES.values() for suffix in WRITERS]
    return _count(folder, ((rows, suffix, column) for rows, suffix in tries for column in ("patient", None)))


def unknown_data(folder: Path) -> Outcome:
    """Records of nobody whom the ledger knows, again and again, under a budget but without the operator's word."""
    hospital, trained = Hospital.opened(folder, max_epsilon=4.0), 0
    for number in range(5):
        rows = [
            {**row, "text": f"Copy {number} of {n}.", "patient": f"copy {number} {n}"} for n, row in enumerate(NOTES)
        ]
        try:
            with hospital.account(rows, max_epsilon=4.0).spend(round=1):
                trained += 1
        except BudgetError:
            pass
    return Outcome(5, trained)


def other_federations(folder: Path) -> Outcome:
    """The same patients in further federations of the institution, each with a state folder of its own."""
    policy: dict[str, Any] = {"max_epsilon": 4.5, "new_data": "allow"}
    hospital, trained = Hospital.opened(folder, **policy), 0  # in `state`, before there was another federation
    places = [{"state": f"state-{n}", "ledger": "ledger.sqlite"} for n in range(4)]
    for place in ({"ledger": "ledger.sqlite"}, *places, {}):
        for number in (2, 3):
            try:
                with hospital.account(NOTES, runtime=place, **policy).spend(round=number):
                    trained += 1
            except BudgetError:
                pass
    return Outcome(12, trained - 1, "the round that the budget still had aside")


def unnamed_owners(folder: Path) -> Outcome:
    """Records of several patients whose names are missing, which would be one patient."""
    hospital, opened = Hospital.opened(folder), 0
    for value in UNNAMED:
        rows = [{**row, "patient": value if row["visit"] == 2 else row["patient"]} for row in NOTES]
        try:
            hospital.account(rows)
            opened += 1
        except DataError:
            pass
    return Outcome(len(UNNAMED), opened)


def _count(folder: Path, tries: Iterator[tuple[Rows, str, str | None]]) -> Outcome:
    """How many data sets begin at less than the notes have spent."""
    hospital, attempts, succeeded = Hospital.opened(folder), 0, 0
    spent = hospital.account(NOTES).epsilon()
    for rows, suffix, column in tries:
        attempts += 1
        succeeded += hospital.account(rows, suffix, column=column).epsilon() < spent
    return Outcome(attempts, succeeded)


PROMISE = "A data set that shares an owner or a record with an earlier one inherits what that has spent."
ATTACKS = (
    Attack("a new budget for owners spelt differently", "an institution", PROMISE, respelt_owners),
    Attack("a new budget for texts spelt differently", "an institution", PROMISE, respelt_records),
    Attack("a new budget for the same records in another file", "an institution", PROMISE, other_files),
    Attack(
        "a new budget for data that the ledger does not know",
        "an institution",
        "Under max_epsilon a data set that shares nothing with any known one waits for the operator's approval.",
        unknown_data,
    ),
    Attack(
        "a new budget in another federation of the institution",
        "an institution",
        "All daemons of an institution that name one ledger spend from one budget, whatever their federations.",
        other_federations,
    ),
    Attack(
        "several owners without a name, counted as one",
        "an institution",
        "A missing value names no owner: the file is refused, and the error names the line.",
        unnamed_owners,
    ),
)
