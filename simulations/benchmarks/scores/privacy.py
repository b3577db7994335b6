"""What does privacy cost? Three institutions, one task of real text, without and with differential privacy.

    python -m simulations.benchmarks.scores.privacy --data DIR --out privacy.jsonl

Each row is a whole simulated federation; what is done is kept in --out, so that an interrupted run goes on where it
stopped. Accuracy is that of the last round on the test records: with privacy no round is chosen by private ones.
"""

import gzip
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import typer

from client.data.sources import read_rows
from server.store import Store, scores, spending
from shared.adapter import get_state
from shared.codec import Arrays
from shared.model.backbone import fingerprint, locate
from shared.model.multitask import MultiTaskModel, build_model
from shared.process import console
from shared.process.console import announce, print_table
from simulations.benchmarks.scores.resumable import finish
from simulations.engine import run_federation
from simulations.experiment import Experiment, open_sites

TASK = "legal_classification"
INSTITUTIONS = ("north", "south", "west")
DELTA = 1e-5
METRICS = ("accuracy", "macro_f1", "micro_f1")
TESTED = 2000
"""Test records at most: a random part of those of `medical_relation`, all of `legal_classification`."""


@dataclass(frozen=True)
class Setting:
    """How one row is trained; `records` per institution, all of a third of the data if None."""

    epsilon: float | None
    method: str = "fedsvd"
    rounds: int = 8
    sampling_rate: float = 0.125
    training: Mapping[str, Any] = field(default_factory=dict)
    alpha: float = 16.0
    task: str = TASK
    records: int | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of labels, in the loss; 1 if not given."""
    draws: int = 1
    """How often it is run; the noise is another each time."""


OURS: dict[str, Any] = {"epochs_per_round": 1, "learning_rate": 1e-3, "head_learning_rate": 0.2, "head_dropout": 0.0}
EVERYBODY: dict[str, Any] = OURS | {"epochs_per_round": 8, "batch_tokens": 16_384}
"""With a sampling rate of 1, eight steps a round on all records: as many as with an eighth of them."""
NAIVE: dict[str, Any] = {"epochs_per_round": 1, "learning_rate": 2e-3}
PLAIN: dict[str, Any] = {"epochs_per_round": 1, "learning_rate": 3e-3}


def _relations(records: int) -> Setting:
    """Heads alone, which read every text once; five of six have no relation, so that it weighs a twentieth."""
    return Setting(
        8.0,
        "heads",
        rounds=24,
        sampling_rate=0.25,
        training=OURS,
        task="medical_relation",
        records=records,
        weights={"none": 0.05},
        draws=3,
    )


SETTINGS = {
    "without privacy": Setting(None, rounds=6, training=PLAIN),
    "epsilon 8": Setting(8.0, rounds=12, training=OURS, alpha=1.0),
    "epsilon 3": Setting(3.0, training=OURS, alpha=1.0),
    "epsilon 1": Setting(1.0, training=OURS, alpha=1.0),
    "epsilon 8, both factors": Setting(8.0, "fedavg", training=OURS, alpha=1.0),
    "epsilon 8, naive": Setting(8.0, "fedavg", rounds=12, sampling_rate=32 / 1963, training=NAIVE),
    **{f"epsilon {e}, heads alone, an eighth": Setting(e, "heads", training=OURS, draws=3) for e in (8, 3, 1)},
    **{
        f"epsilon {e}, heads alone": Setting(e, "heads", sampling_rate=1.0, training=EVERYBODY, draws=3)
        for e in (8, 3, 1)
    },
    **{f"epsilon 8, {n} relations each": _relations(n) for n in (500, 1000, 2000, 4000)},
}
"""`naive` is the recipe of a first attempt: batches of 32, both factors, one learning rate."""


def main(
    data: Annotated[Path, typer.Option(help="The folder of data sets.")],
    out: Annotated[Path, typer.Option(help="JSON Lines file of finished rows; new ones are added.")],
    only: Annotated[list[str] | None, typer.Option(help="One row; repeat. All if not given.")] = None,
) -> None:
    """Run every setting that is not in --out yet, and print the table."""
    done = finish(SETTINGS, out, only, lambda _, setting: run_setting(setting, data))
    keys = ("row", *METRICS, "epsilon", "records", "seconds")
    print_table(keys, [[row.get(key) for key in keys] for row in done])


def run_setting(setting: Setting, data: Path) -> dict[str, Any]:
    """Simulate a federation as often as it is drawn; its last round's test scores, and what it has spent each time."""
    with tempfile.TemporaryDirectory(prefix="collegium-privacy-") as folder:
        experiment = experiment_of(setting, data / setting.task, Path(folder))
        model = build_model(experiment.federation)
        initial, started = get_state(model), time.perf_counter()
        draws = [draw(experiment, model, initial, Path(folder) / str(n)) for n in range(setting.draws)]
        records = len(read_part(Path(folder), f"{INSTITUTIONS[0]}.train"))
    return {
        **{key: fmean(drawn[key] for drawn in draws) for key in draws[0]},
        "draws": draws,
        "records": records,
        "seconds": round((time.perf_counter() - started) / setting.draws),
    }


def draw(experiment: Experiment, model: MultiTaskModel, initial: Arrays, folder: Path) -> dict[str, float]:
    """One run: accuracy, F1 scores, and epsilon where the federation is private."""
    folder.mkdir()
    sites = open_sites(experiment, model)
    with Store.open(f"sqlite:///{folder / 'collegium.db'}", checkpoints=folder / "checkpoints") as store:
        run = run_federation(sites, experiment.federation, initial, store, announce)
        last = experiment.federation.rounds.count
        tested = [r for r in store.rows(scores, run) if r["round"] == last and r["split"] == "test"]
        spent = [row["epsilon"] for row in store.rows(spending, run)]
    found = {row["metric"]: row["value"] for row in tested}
    return {key: found[key] for key in METRICS if key in found} | ({"epsilon": max(spent)} if spent else {})


def read_part(source: Path, split: str) -> list[Mapping[str, Any]]:
    """The records of one split of a data set."""
    return [row for _, row in read_rows(source / f"{split}.jsonl.gz")]


def experiment_of(setting: Setting, source: Path, folder: Path) -> Experiment:
    """Three institutions with a random third of the training records each; the first one tests."""
    rng = np.random.default_rng(13)
    rows = {split: read_part(source, split) for split in ("train", "dev", "test")}
    for split in ("train", "dev"):
        parts = np.array_split(rng.permutation(len(rows[split])), len(INSTITUTIONS))
        for name, part in zip(INSTITUTIONS, parts, strict=True):
            kept = part[: setting.records] if split == "train" else part[:60]
            _write(folder / f"{name}.{split}.jsonl.gz", [rows[split][i] for i in kept])
    tested = rng.permutation(len(rows["test"]))[:TESTED]
    _write(folder / "test.jsonl.gz", [rows["test"][i] for i in tested])
    held = {
        n: {"train": folder / f"{n}.train.jsonl.gz", "validation": folder / f"{n}.dev.jsonl.gz"} for n in INSTITUTIONS
    }
    held[INSTITUTIONS[0]]["test"] = folder / "test.jsonl.gz"
    labels = sorted({row["label"] for row in rows["train"]})
    relation = setting.task.endswith("relation")
    task = {
        "type": "relation-extraction" if relation else "text-classification",
        "labels": labels,
        "class_weights": [setting.weights.get(label, 1.0) for label in labels],
    }
    federation: dict[str, Any] = {
        "name": "privacy",
        "backbone": {
            "name": "minilm-l6",
            "sha256": fingerprint(locate("minilm-l6")),
            "max_length": 160 if relation else 96,
        },
        "tasks": {setting.task: task | ({"no_relation": "none"} if relation else {})},
        "adapter": {"alpha": setting.alpha},
        "training": {"weight_decay": 0.0} | dict(setting.training),
        "rounds": {
            "count": setting.rounds,
            "institutions": INSTITUTIONS,
            "quorum": 3,
            "weighting": "equal",
            "method": setting.method,
        },
    }
    if setting.epsilon is not None:
        federation["privacy"] = {"epsilon": setting.epsilon, "delta": DELTA, "sampling_rate": setting.sampling_rate}
    institutions = {name: {setting.task: files} for name, files in held.items()}
    return Experiment.model_validate({"federation": federation, "institutions": institutions})


def _write(path: Path, rows: list[Mapping[str, Any]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
