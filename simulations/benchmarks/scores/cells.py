"""Each task of each trade on real text: centralised LoRA on MiniLM-L6 beside a baseline that does not read.

    python -m simulations.benchmarks.scores.cells --data DIR --out cells.jsonl

A cell is one public data set (docs/data.md says how to build the folder). Its settings stand in `CELLS`. What is done
is kept in --out, so that an interrupted run goes on where it stopped.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from client.data.loading import TaskData
from client.data.sources import read_rows
from client.train.scoring import score
from shared.adapter import get_state
from shared.model.backbone import fingerprint, locate
from shared.model.multitask import build_model
from shared.process import console
from shared.process.console import print_table
from shared.tasks import Record, Task
from shared.tasks.tags import to_bio
from simulations.baselines import train_on
from simulations.benchmarks.scores.resumable import finish
from simulations.experiment import Experiment, open_sites

TYPES = {
    "classification": "text-classification",
    "pair": "text-pair-classification",
    "ner": "token-classification",
    "relation": "relation-extraction",
    "qa": "question-answering",
    "summarisation": "extractive-summarization",
}


SPLITS = {"train": "train", "validation": "dev", "test": "test"}


@dataclass(frozen=True)
class Cell:
    """How one data set is trained."""

    limit: int
    """Most records of each split."""
    epochs: int
    max_length: int = 128
    rate: float = 1.5e-3
    options: dict[str, Any] = field(default_factory=dict)
    """Of the task, beside its labels."""


LINEAR: dict[str, Any] = {"head": "linear", "trigram_blocking": False}
"""A few hundred documents are too few for the inter-sentence transformer."""
CELLS = {
    "medical_classification": Cell(1000, 2, 192),
    "legal_classification": Cell(3000, 3, 96),
    "financial_classification": Cell(4000, 3, 96),
    "medical_pair": Cell(400, 3, 256),
    "legal_pair": Cell(1000, 3),
    "financial_pair": Cell(1000, 2),
    "medical_ner": Cell(5000, 3, 160),
    "legal_ner": Cell(2500, 3),
    "financial_ner": Cell(2500, 3),
    "medical_relation": Cell(3000, 2, 160, options={"no_relation": "none"}),
    "legal_relation": Cell(1700, 4, 160, options={"no_relation": "none"}),
    "financial_relation": Cell(2000, 3, options={"no_relation": "none"}),
    "medical_qa": Cell(600, 2, 256, options={"doc_stride": 96, "max_answer_tokens": 128}),
    "legal_qa": Cell(1200, 2, 256, options={"max_answer_tokens": 64}),
    "financial_qa": Cell(500, 3, 256, options={"max_answer_tokens": 64}),
    "medical_summarisation": Cell(400, 3, 512, 1.5e-3, LINEAR | {"summary_sentences": 2}),
    "legal_summarisation": Cell(82, 3, 512, 1.5e-3, LINEAR | {"summary_sentences": 10}),
    "financial_summarisation": Cell(60, 3, 512, 1.5e-3, LINEAR | {"summary_sentences": 3}),
}


def main(
    data: Annotated[Path, typer.Option(help="The folder of data sets.")],
    out: Annotated[Path, typer.Option(help="JSON Lines file of finished cells; new ones are added.")],
    only: Annotated[list[str] | None, typer.Option(help="One cell; repeat. All if not given.")] = None,
    seed: Annotated[int, typer.Option(help="Of the initial heads and the order of records.")] = 13,
) -> None:
    """Train every cell that is not in --out yet, and print the table."""
    done = finish(CELLS, out, only, lambda name, cell: run_cell(name, cell, data, seed))
    keys = ("row", "metric", "score", "baseline", "baseline_is", "train", "test", "epochs", "seconds")
    print_table(keys, [[row[key] for key in keys] for row in done])


def run_cell(name: str, cell: Cell, data: Path, seed: int) -> dict[str, Any]:
    """Train and test one cell."""
    experiment = experiment_of(name, cell, data, seed)
    federation = experiment.federation
    model = build_model(federation)
    (site,) = open_sites(experiment, model).values()
    task, train, test = model.tasks[name], site.data[name]["train"], site.data[name]["test"]
    started = time.perf_counter()
    train_on(model, get_state(model), [site], federation)
    trained = time.perf_counter() - started
    scores = score(model, name, site.data[name], "test", federation.training.precision)
    baseline, what = baseline_of(kind_of(name), task, train, test, scores)
    return {
        "metric": task.metric,
        "score": scores[task.metric],
        "baseline": baseline,
        "baseline_is": what,
        "train": len(train.records),
        "test": len(test.records),
        "epochs": cell.epochs,
        "seconds": round(trained),
        "scores": scores,
    }


def kind_of(name: str) -> str:
    """`ner` of `medical_ner`."""
    return name.split("_", 1)[1]


def experiment_of(name: str, cell: Cell, data: Path, seed: int) -> Experiment:
    """One institution that holds one data set."""
    kind = kind_of(name)
    records = [record for _, record in read_rows(data / name / "train.jsonl.gz")]
    task: dict[str, Any] = {"type": TYPES[kind]} | cell.options
    if kind == "ner":
        task["types"] = sorted({tag[2:] for record in records for tag in record["tags"]} - {""})
    elif kind in ("classification", "pair", "relation"):
        task["labels"] = sorted({record["label"] for record in records})
    files = {split: data / name / f"{file}.jsonl.gz" for split, file in SPLITS.items()}
    return Experiment.model_validate(
        {
            "federation": {
                "name": "cell",
                "seed": seed,
                "backbone": {
                    "name": "minilm-l6",
                    "sha256": fingerprint(locate("minilm-l6")),
                    "max_length": cell.max_length,
                },
                "tasks": {name: task},
                "training": {"epochs_per_round": cell.epochs, "learning_rate": cell.rate},
                "rounds": {"count": 1, "institutions": ["here"], "quorum": 1},
            },
            "institutions": {"here": {name: files | {"limit": cell.limit}}},
        }
    )


def baseline_of(kind: str, task: Task, train: TaskData, test: TaskData, scores: dict[str, float]) -> tuple[float, str]:
    """The primary metric of a prediction that does not read the text, and what that is."""
    if kind == "summarisation":
        return scores["lead_rouge1"], "first sentences"
    if kind == "qa":
        return task.score(test.records, [""] * len(test.records))[task.metric], "no answer"
    if kind == "ner":
        return task.score(test.records, lookup(train.records, test.records))[task.metric], "word lookup"
    counts = Counter(label for record in train.records for label in task.labels_of(record))
    guesses = [[label] * len(test.records) for label, _ in counts.most_common(2)]
    return max(task.score(test.records, guess)[task.metric] for guess in guesses), "one label for all"


def lookup(train: Sequence[Record], test: Sequence[Record]) -> list[list[str]]:
    """Each word's most frequent tag in training; `O` if it was not seen."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for record in train:
        for token, tag in zip(record["tokens"], record["tags"], strict=True):
            counts[token][tag] += 1
    best = {token: tags.most_common(1)[0][0] for token, tags in counts.items()}
    return [to_bio([best.get(token, "O") for token in record["tokens"]], "IOB") for record in test]


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
