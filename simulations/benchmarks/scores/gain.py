"""What an institution gains: 500 records over five institutions, each alone, together, and all records pooled.

    python -m simulations.benchmarks.scores.gain --data DIR --out gain.jsonl --plot docs/gain.svg

The task is `legal_classification`: sentences of decisions, six rhetorical roles. All are scored on the same test
records, those left out whose text stands among the set's training records. The same records over three, five and ten
institutions compare two methods: by score, by what they send, and by what they leave on disk. What is done is kept in
--out, so that an interrupted run goes on where it stopped.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
import typer

from client.data.sources import read_rows
from client.round import personal
from client.site import Site
from client.train.scoring import score
from server.release.making import release
from server.store import Store, replies
from shared.adapter import get_state
from shared.bundle import ADAPTER_FILE
from shared.model.multitask import MultiTaskModel, build_model
from shared.process import console
from shared.process.console import announce, print_table
from simulations.auditing.plots import dots, standalone
from simulations.baselines import train_on
from simulations.benchmarks.scores.methods import LABELS, TASK
from simulations.benchmarks.scores.resumable import finish
from simulations.engine import run_federation
from simulations.experiment import Experiment, load_experiment, open_sites
from simulations.results import rows_of

SEEDS = (13, 14, 15)
"""Of the 500 records, of who holds which, of the initial heads and of the order in training."""
RECORDS = 500
INSTITUTIONS = 5
METHODS = ("fedex", "rolora")
"""Compared over the same records."""
NUMBERS = (3, 5, 10)
"""Of institutions under which they are compared."""
ALPHA = 5.0
"""Of the Dirichlet distribution over institutions: their sizes and their mixes of labels differ a little."""
COSTS = ("up", "down", "checkpoints", "bundle", "personal")
"""Megabytes: what an institution sends and receives in the whole run, on average; all checkpoints of the run; the
released adapter; and the model that an institution keeps."""

How = Literal["alone", "together", "pooled"]
HOWS: Mapping[How, str] = {"alone": "each alone", "together": "together", "pooled": "all records pooled"}


@dataclass(frozen=True)
class Setting:
    """How one row is trained."""

    how: How
    seed: int
    method: str = "auto"
    institutions: int = INSTITUTIONS


def settings() -> dict[str, Setting]:
    """All rows by name."""
    gains = {f"{how}, seed {seed}": Setting(how, seed) for seed in SEEDS for how in HOWS}
    methods = {
        f"{method}, {number} institutions, seed {seed}": Setting("together", seed, method, number)
        for seed in SEEDS
        for number in NUMBERS
        for method in METHODS
    }
    return gains | methods


def main(
    data: Annotated[Path, typer.Option(help="The folder of data sets.")],
    out: Annotated[Path, typer.Option(help="JSON Lines file of finished rows; new ones are added.")],
    plot: Annotated[Path | None, typer.Option(help="SVG file to draw the rows in.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="One row; repeat. All if not given.")] = None,
) -> None:
    """Run every setting that is not in --out yet, and print the table."""
    done = finish(settings(), out, only, lambda _, setting: run_setting(setting, data))
    print_table(["", *(f"seed {seed}" for seed in SEEDS), "mean"], table(done))
    print_table(["", "macro F1", *COSTS, "seconds"], costs(done))
    if plot:
        plot.write_text(drawn(done), encoding="utf-8")


def table(done: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Macro F1 by training and seed, of those alone the mean, and the mean over seeds."""
    found = {row["row"]: statistics.mean(float(score) for _, score in row["scores"]) for row in done}
    lines: list[list[Any]] = []
    for how, name in HOWS.items():
        scores = [found.get(f"{how}, seed {seed}") for seed in SEEDS]
        known = [score for score in scores if score is not None]
        lines.append([name, *scores, statistics.mean(known) if known else None])
    return lines


def costs(done: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Score and costs of every comparison of methods."""
    return [
        [row["row"], row["scores"][0][1], *(row["costs"][name] for name in COSTS), row["seconds"]]
        for row in done
        if settings()[row["row"]].method != "auto"
    ]


def drawn(done: Sequence[Mapping[str, Any]]) -> str:
    """Every institution alone by its number of records, beside the levels of training together and pooled; SVG."""
    by_how: dict[How, list[tuple[float, float]]] = {how: [] for how in HOWS}
    for row in done:
        if (setting := settings()[row["row"]]).method == "auto":
            by_how[setting.how] += [(records, score) for records, score in row["scores"]]
    levels = {HOWS[how]: [score for _, score in by_how[how]] for how in ("together", "pooled") if by_how[how]}
    return standalone(dots({HOWS["alone"]: by_how["alone"]}, levels, "records of the institution", "macro F1"))


def run_setting(setting: Setting, data: Path) -> dict[str, Any]:
    """Train one row.

    Args:
        setting: How.
        data: The folder of data sets.

    Returns:
        `scores`, a pair for each model (its training and validation records, its macro F1 on the test records);
        `tested`, the number of test records; `seconds` of processor time; of training together, `costs`.
    """
    with tempfile.TemporaryDirectory(prefix="collegium-gain-") as name:
        folder = Path(name)
        experiment = divided(setting, data, folder)
        model = build_model(experiment.federation)
        sites = open_sites(experiment, model)
        started = time.process_time()
        found = TRAININGS[setting.how](experiment, model, sites, folder)
        tested = len(next(iter(sites.values())).data[TASK]["test"].records)
    return found | {"tested": tested, "seconds": round(time.process_time() - started)}


def divided(setting: Setting, data: Path, folder: Path) -> Experiment:
    """The experiment: who holds which records, and the test records at the first institution."""
    path = folder / "experiment.toml"
    path.write_text(tomli_w.dumps(experiment_of(setting)), encoding="utf-8")
    experiment = load_experiment(path, data=data, workdir=folder, announce=announce)
    first = next(iter(experiment.institutions))
    unseen = unseen_records(data / TASK, folder / "test.jsonl")
    holding = experiment.institutions[first] | {
        TASK: experiment.institutions[first][TASK].model_copy(update={"test": unseen})
    }
    return experiment.model_copy(update={"institutions": experiment.institutions | {first: holding}})


def unseen_records(source: Path, target: Path) -> Path:
    """Write the test records whose text is no training record's; where they are."""
    seen = {_words(row["text"]) for _, row in read_rows(source / "train.jsonl.gz")}
    rows = [row for _, row in read_rows(source / "test.jsonl.gz") if _words(row["text"]) not in seen]
    target.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return target


def experiment_of(setting: Setting) -> dict[str, Any]:
    """The experiment file."""
    return {
        "federation": {
            "name": "gain",
            "seed": setting.seed,
            "backbone": {"name": "minilm-l6", "max_length": 96},
            "adapter": {"rank": 8, "alpha": 16.0},
            "training": {"epochs_per_round": 2, "learning_rate": 3e-3, "batch_tokens": 512},
            "rounds": {"count": 6, "method": setting.method},
            "tasks": {TASK: {"type": "text-classification", "labels": LABELS}},
        },
        "partition": {
            TASK: {
                "data": {"train": f"{TASK}/train.jsonl.gz", "limit": RECORDS},
                "institutions": setting.institutions,
                "kind": "dirichlet",
                "alpha": ALPHA,
                "seed": setting.seed,
            }
        },
    }


Found = dict[str, Any]
"""`scores`, and of training together `costs`."""


def _alone(experiment: Experiment, model: MultiTaskModel, sites: Mapping[str, Site], _: Path) -> Found:
    initial = get_state(model)
    scores = []
    for site in sites.values():
        train_on(model, initial, [site], experiment.federation)
        scores.append((_records(site), _tested(model, sites)))
    return {"scores": scores}


def _pooled(experiment: Experiment, model: MultiTaskModel, sites: Mapping[str, Site], _: Path) -> Found:
    train_on(model, get_state(model), list(sites.values()), experiment.federation)
    return {"scores": [(sum(map(_records, sites.values())), _tested(model, sites))]}


def _together(experiment: Experiment, model: MultiTaskModel, sites: Mapping[str, Site], folder: Path) -> Found:
    checkpoints, federation = folder / "checkpoints", experiment.federation
    with Store.open(f"sqlite:///{folder / 'collegium.db'}", checkpoints=checkpoints) as store:
        run = run_federation(sites, federation, get_state(model), store, announce)
        (row,) = rows_of(store, run)
        asked = store.rows(replies, run)
        bundle = release(store, run, folder / "bundle")
    personal.keep_model(folder, model, federation, tasks=federation.tasks, about={})
    costs = {
        "up": sum(reply["bytes_up"] for reply in asked) / len(sites),
        "down": sum(reply["bytes_down"] for reply in asked) / len(sites),
        "checkpoints": sum(file.stat().st_size for file in checkpoints.rglob("*") if file.is_file()),
        "bundle": (bundle / ADAPTER_FILE).stat().st_size,
        "personal": (folder / personal.FILE).stat().st_size,
    }
    return {
        "scores": [(sum(map(_records, sites.values())), row.final)],
        "costs": {name: round(size / 1e6, 2) for name, size in costs.items()},
    }


TRAININGS: Mapping[How, Callable[[Experiment, MultiTaskModel, Mapping[str, Site], Path], Found]] = {
    "alone": _alone,
    "together": _together,
    "pooled": _pooled,
}


def _records(site: Site) -> int:
    """What an institution holds, the tenth for validation among it."""
    return sum(len(split.records) for name, split in site.data[TASK].items() if name != "test")


def _tested(model: MultiTaskModel, sites: Mapping[str, Site]) -> float:
    holder = next(site for site in sites.values() if "test" in site.data[TASK])
    return score(model, TASK, holder.data[TASK], "test")["macro_f1"]


def _words(text: str) -> str:
    return " ".join(text.casefold().split())


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
