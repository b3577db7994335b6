"""Methods, ranks and codecs on real text: the tables of the results page, from simulated federations.

    python -m simulations.benchmarks.scores.methods --data DIR --out methods.jsonl

Every row is a whole federation that classifies the sentences of `legal_classification`, or the same training on all
records pooled. What is done is kept in --out, so that an interrupted run goes on where it stopped.
"""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tomli_w
import typer

from client.train.scoring import score
from server.store import Store, replies, scores
from shared.adapter import get_state
from shared.model.multitask import MultiTaskModel, build_model
from shared.process import console
from shared.process.console import announce, print_table
from simulations.baselines import train_on
from simulations.benchmarks.scores.resumable import finish
from simulations.engine import run_federation
from simulations.experiment import Experiment, load_experiment, open_sites

TASK = "legal_classification"
LABELS = ["Evidence", "Citation", "LegalRule", "Other", "Reasoning", "Finding"]
ROUNDS = 6
LIMIT = 800
"""Records of each split in a federation; where no validation split is used, a tenth of the training records."""
SEEDS = (13, 14, 15)


@dataclass(frozen=True)
class Setting:
    """How one row is trained."""

    table: str
    method: str = "auto"
    rank: int = 4
    alpha: float = 0.0
    """Of the Dirichlet distribution over institutions; 0 splits evenly."""
    institutions: int = 3
    wire: Mapping[str, Any] = field(default_factory=dict)
    ranks: tuple[int, ...] = ()
    """Of the institutions in their order, repeated; `rank` if empty."""
    pooled: bool = False
    seed: int = SEEDS[0]
    rounds: int = ROUNDS
    batch_tokens: int = 512
    validation: bool = False
    """Choose the round by records of the set's own validation split, ten times as many as are held out else."""


CODECS: dict[str, dict[str, Any]] = {
    "float32": {"up": "float32", "down": "float32"},
    "float16": {"up": "float16", "down": "float16"},
    "float16, zstd": {"up": "float16", "down": "float16", "compress": True},
    "bfloat16": {"up": "bfloat16", "down": "bfloat16"},
    "int8": {"up": "int8", "down": "int8"},
    "int4 up, int8 down": {"up": "int4", "down": "int8"},
    "int4": {"up": "int4", "down": "int4"},
    "top-k 10 % up, int8 down": {"up": "top-k", "top_k": 0.1, "down": "int8"},
}


def settings() -> dict[str, Setting]:
    """All rows by name, the ones that matter most first."""
    found = {}
    for seed in SEEDS:
        for method in ("fedex", "rolora"):
            alike = Setting("a", method, seed=seed, rounds=16, validation=True)
            found[f"three alike, {method}, seed {seed}"] = alike
            found[f"three alike, {method}, a third of the batch, seed {seed}"] = replace(alike, batch_tokens=171)
        found[f"three alike, pooled, seed {seed}"] = Setting("a", pooled=True, seed=seed, rounds=16, validation=True)
    for alpha in (0.1, 0.01):
        for method in ("rolora", "fedavg", "ffa", "flexlora"):
            found[f"Dirichlet {alpha}, {method}"] = Setting("b", method, rank=2, alpha=alpha, institutions=20)
    for method in ("flexlora", "fedavg"):
        found[f"ranks 2, 4, 8, {method}"] = Setting("c", method, rank=8, institutions=6, ranks=(2, 4, 8))
    for name, wire in CODECS.items():
        found[f"codec {name}"] = Setting("d", wire=wire)
    return found


def main(
    data: Annotated[Path, typer.Option(help="The folder of data sets.")],
    out: Annotated[Path, typer.Option(help="JSON Lines file of finished rows; new ones are added.")],
    only: Annotated[list[str] | None, typer.Option(help="One row; repeat. All if not given.")] = None,
) -> None:
    """Run every setting that is not in --out yet, and print the table."""
    done = finish(settings(), out, only, lambda _, setting: run_setting(setting, data))
    keys = ("row", "accuracy", "macro_f1", "kilobytes", "fewer", "seconds")
    print_table(keys, [[row[key] for key in keys] for row in done])


def run_setting(setting: Setting, data: Path) -> dict[str, Any]:
    """Train one row; its test scores, and what an institution sends and receives in a round to train."""
    with tempfile.TemporaryDirectory(prefix="collegium-methods-") as folder:
        path = Path(folder) / "experiment.toml"
        path.write_text(tomli_w.dumps(experiment_of(setting)), encoding="utf-8")
        experiment = load_experiment(path, data=data, limit=LIMIT, workdir=Path(folder))
        model = build_model(experiment.federation)
        started = time.perf_counter()
        found = _pooled(experiment, model) if setting.pooled else _together(experiment, model, Path(folder))
        full = 2 * 4 * sum(parameter.numel() for parameter in model.encoder.parameters())
    sent = found.pop("bytes", None)
    return found | {
        "kilobytes": None if sent is None else round(sent / 1000, 1),
        "fewer": None if sent is None else round(full / sent),
        "seconds": round(time.perf_counter() - started),
    }


def _together(experiment: Experiment, model: MultiTaskModel, folder: Path) -> dict[str, Any]:
    sites, federation = open_sites(experiment, model), experiment.federation
    url = f"sqlite:///{folder / 'collegium.db'}"
    with Store.open(url, checkpoints=folder / "checkpoints") as store:
        run = run_federation(sites, federation, get_state(model), store, announce)
        best = store.best_round(run)
        found = {
            row["metric"]: row["value"]
            for row in store.rows(scores, run)
            if row["round"] == best and row["split"] == "test"
        }
        asked = [row for row in store.rows(replies, run) if row["kind"] == "train"]
    moved = float(np.mean([row["bytes_up"] + row["bytes_down"] for row in asked]))
    return {"accuracy": found["accuracy"], "macro_f1": found["macro_f1"], "bytes": moved}


def _pooled(experiment: Experiment, model: MultiTaskModel) -> dict[str, Any]:
    sites = open_sites(experiment, model)
    train_on(model, get_state(model), list(sites.values()), experiment.federation)
    holder = next(site for site in sites.values() if "test" in site.data[TASK])
    found = score(model, TASK, holder.data[TASK], "test")
    return {"accuracy": found["accuracy"], "macro_f1": found["macro_f1"]}


def experiment_of(setting: Setting) -> dict[str, Any]:
    """The experiment file of one row."""
    split = {"kind": "dirichlet", "alpha": setting.alpha} if setting.alpha else {"kind": "iid"}
    files = {"train": "train", "test": "test"} | ({"validation": "dev"} if setting.validation else {})
    names = [f"site-{i:02d}" for i in range(1, setting.institutions + 1)]
    ranks = {name: setting.ranks[i % len(setting.ranks)] for i, name in enumerate(names)} if setting.ranks else {}
    return {
        "federation": {
            "name": "methods",
            "seed": setting.seed,
            "backbone": {"name": "minilm-l6", "max_length": 96},
            "adapter": {"rank": setting.rank, "alpha": 2.0 * setting.rank, "target_modules": ["query", "value"]}
            | ({"min_rank": min(setting.ranks)} if setting.ranks else {}),
            "training": {"epochs_per_round": 1, "learning_rate": 3e-3, "batch_tokens": setting.batch_tokens},
            "rounds": {"count": setting.rounds, "method": setting.method},
            "wire": dict(setting.wire),
            "tasks": {TASK: {"type": "text-classification", "labels": LABELS}},
        },
        "partition": {
            TASK: {
                "data": {split: f"{TASK}/{file}.jsonl.gz" for split, file in files.items()},
                "institutions": setting.institutions,
                "seed": setting.seed,
            }
            | split
        },
        "ranks": ranks,
    }


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
