"""Whom a site trains on: whether others can move an owner in or out, or a coordinator can know."""

import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from client.institution import load_institution
from client.keys import generate_node_key
from client.opening import build_site, open_site
from client.site import Site
from shared.errors import ConfigError
from shared.federation import load_federation
from shared.model.multitask import MultiTaskModel, build_model
from simulations.attacks import Attack, Outcome
from simulations.attacks.stage import tiny_federation, write_tiny_bert

Side = Mapping[str, str]
"""Split of each text that is used."""
TRIES = 12
PATIENTS = 100
PROMISE = (
    "Whether an owner is trained on, held out or left out depends on that owner and a secret key of the site alone."
)

PRIVATE: dict[str, Any] = {
    "privacy": {"epsilon": 4.0, "sampling_rate": 0.5},
    "training": {"weight_decay": 0.0, "head_dropout": 0.0},
    "rounds": {"weighting": "equal", "method": "ffa"},
}


@dataclass
class Clinic:
    """A site in a folder; every opening reads its files again."""

    folder: Path
    private: bool = False
    model: MultiTaskModel = field(init=False)

    def __post_init__(self) -> None:
        bert = self.folder / "bert"
        bert.mkdir()
        federation = tiny_federation(write_tiny_bert(bert), ("hospital",), **PRIVATE if self.private else {})
        values = federation.model_dump(mode="json", exclude_none=True)
        (self.folder / "federation.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
        generate_node_key(self.folder / "node.key")
        self.model = build_model(federation)

    def open(self, **tasks: Mapping[str, Any]) -> Site:
        """The site whose tasks have these records under `train`, and these settings."""
        data = {}
        for task, source in tasks.items():
            with (self.folder / f"{task}.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in source["train"])
            data[task] = {**source, "train": f"{task}.jsonl"}
        values = {"name": "hospital", "data": data}
        (self.folder / "institution.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
        return open_site(self.folder / "institution.toml", model=self.model)


def one_more(folder: Path) -> Outcome:
    """A record is added somewhere in the file: does anybody else move?"""
    return _count_moved(Clinic(folder))


def one_more_within_a_number(folder: Path) -> Outcome:
    """The same under [privacy], where `limit` keeps 60 of the records."""
    return _count_moved(Clinic(folder, private=True), limit=60)


def one_more_within_a_share(folder: Path) -> Outcome:
    """The same under [privacy], where `limit` keeps half of the records."""
    return _count_moved(Clinic(folder, private=True), limit=0.5)


def _count_moved(clinic: Clinic, **source: Any) -> Outcome:
    rng, moved, most = random.Random(0), 0, 0
    for number in range(TRIES):
        records = notes((f"text {number} {n}", None) for n in range(120 + number))
        more = list(records)
        more.insert(rng.randrange(len(more)), *notes([(f"new text {number}", None)]))
        try:
            before, after = (_sides(clinic.open(clauses={"train": rows, **source})) for rows in (records, more))
        except ConfigError:
            continue
        others = sum(before.get(record["text"]) != after.get(record["text"]) for record in records)
        moved, most = moved + bool(others), max(most, others)
    return Outcome(TRIES, moved, f"at most {most} others moved")


def other_order(folder: Path) -> Outcome:
    """The same file in another order."""
    clinic, rng, moved = Clinic(folder), random.Random(0), 0
    records = notes((f"text {n}", None) for n in range(120))
    before = _sides(clinic.open(clauses={"train": records}))
    for _ in range(TRIES):
        moved += _sides(clinic.open(clauses={"train": rng.sample(records, len(records))})) != before
    return Outcome(TRIES, moved)


def both_sides(folder: Path) -> Outcome:
    """Patients with several notes each, who would be trained on and validated on."""
    records = notes((f"day {day} of patient {n}", n) for n in range(PATIENTS) for day in range(10))
    site = Clinic(folder).open(clauses={"train": records, "group_by": "patient"})
    return Outcome(PATIENTS, len(_owners(site, "clauses", "train") & _owners(site, "clauses", "validation")))


def two_tasks(folder: Path) -> Outcome:
    """Patients of two tasks, trained on for the one and validated on for the other."""
    clauses = notes((f"note of patient {n}", n) for n in range(PATIENTS))
    entities = [
        {"tokens": ["patient", str(n)], "tags": ["O", "O"], "who": f"{n:04d}"} for n in range(PATIENTS - 1, -1, -1)
    ]
    site = Clinic(folder).open(
        clauses={"train": clauses, "group_by": "patient"}, entities={"train": entities, "group_by": "who"}
    )
    train, validation = (
        {int(n) for task in site.data for n in _owners(site, task, split)} for split in ("train", "validation")
    )
    return Outcome(PATIENTS, len(train & validation))


def foreseen(folder: Path) -> Outcome:
    """Draw the split again from code, agreement and all records, and compare it with the site's."""
    clinic, known = Clinic(folder), 0
    records = notes((f"text {n}", None) for n in range(120))
    real = _sides(clinic.open(clauses={"train": records}))
    federation = load_federation(folder / "federation.toml")
    for seed in range(TRIES):
        changed = federation.model_copy(update={"seed": seed or federation.seed})
        known += _sides(build_site(load_institution(folder / "institution.toml"), changed, clinic.model)) == real
    return Outcome(TRIES, known)


def notes(texts: Iterable[tuple[str, int | None]]) -> list[dict[str, Any]]:
    """Records with these texts, of these patients."""
    return [{"text": text, "label": "payment"} | ({} if who is None else {"patient": who}) for text, who in texts]


def _sides(site: Site) -> Side:
    return {record["text"]: split for split, records in site.data["clauses"].items() for record in records.records}


def _owners(site: Site, task: str, split: str) -> set[Any]:
    found = site.data[task].get(split)  # type: ignore[call-overload]
    return {record["patient" if task == "clauses" else "who"] for record in found.records} if found else set()


ATTACKS = (
    Attack("a record added, to move others between the splits", "an institution", PROMISE, one_more),
    Attack(
        "a record added, to change whom a limit by number keeps", "an institution", PROMISE, one_more_within_a_number
    ),
    Attack("a record added, to change whom a limit by share keeps", "an institution", PROMISE, one_more_within_a_share),
    Attack("a file sorted differently, to move others between the splits", "an institution", PROMISE, other_order),
    Attack("the same patients in training and validation", "an institution", PROMISE, both_sides),
    Attack("the same patients in training of one task and validation of another", "an institution", PROMISE, two_tasks),
    Attack("a split predicted from code, agreement and records", "a coordinator", PROMISE, foreseen),
)
