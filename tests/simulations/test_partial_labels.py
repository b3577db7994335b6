"""Two institutions annotate different entity types of the same kind of text; the federation learns both."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.institution import Data
from client.train.trainer import predict
from server.rounds import loop as rounds
from server.store import Store
from server.store import events as events_table
from shared.adapter import get_state, set_state
from shared.federation import Federation
from shared.model.multitask import MultiTaskModel, build_model
from simulations.engine import LocalGrid
from simulations.experiment import Experiment, open_sites

DRUGS, PARTIES = ("aspirin", "codeine", "insulin", "lithium"), ("Acme", "Globex", "Initech", "Umbrella")
TEXTS = [["the", "firm", party, "sells", drug, "daily"] for party in PARTIES for drug in DRUGS]
TRUE = ["O", "O", "B-Party", "O", "B-Drug", "O"]


def only(kind: str) -> list[str]:
    return [tag if tag.endswith(kind) else "O" for tag in TRUE]


@pytest.fixture
def run(
    tmp_path: Path, tiny_federation: Callable[..., Federation]
) -> Callable[[bool], tuple[MultiTaskModel, list[str], dict[str, np.ndarray], dict[str, np.ndarray]]]:
    def run(declared: bool) -> Any:
        institutions = {}
        for name, kind in (("hospital", "Drug"), ("law_firm", "Party")):
            file = tmp_path / f"{name}.jsonl"
            file.write_text("".join(json.dumps({"tokens": text, "tags": only(kind)}) + "\n" for text in TEXTS))
            data = Data(train=file, validation=file, annotates=(kind,) if declared else None)
            institutions[name] = {"entities": data}
        federation = tiny_federation(
            tasks={"entities": {"type": "token-classification", "types": ["Drug", "Party"]}},
            rounds={"count": 3, "quorum": 2},
            training={"epochs_per_round": 20, "learning_rate": 3e-2},
        )
        model = build_model(federation)
        initial = get_state(model)
        sites = open_sites(Experiment(federation=federation, institutions=institutions), model)
        work = tmp_path / str(declared)
        with Store.open(f"sqlite:///{tmp_path / f'{declared}.db'}", checkpoints=work) as store:
            run_id = store.create_run(federation)
            state = rounds.run(
                LocalGrid(sites),
                federation=federation,
                store=store,
                run_id=run_id,
                initial_state=initial,
                announce=lambda _: None,
            ).model
            said = [row["text"] for row in store.rows(events_table, run_id)]
        set_state(model, state)
        return model, said, initial, state

    return run


def found(model: MultiTaskModel) -> float:
    """Share of all entities that the model finds, on text without any annotation."""
    task = model.tasks["entities"]
    examples = task.encode([{"tokens": text} for text in TEXTS], model.tokenizer, 64)
    predictions = predict(model, task, examples, precision="float32")
    return float(np.mean([[tags[2] == "B-Party", tags[4] == "B-Drug"] for tags in predictions]))


def test_declared_partial_labels_are_learnt_by_all(run: Any) -> None:
    model, said, _, _ = run(True)
    assert found(model) > 0.95
    assert "hospital does not annotate 'Party' of entities: it leaves their rows alone" in said


def test_undeclared_ones_are_learnt_more_slowly(run: Any) -> None:
    """After as many rounds, since what one institution learns the other teaches away."""
    model, said, _, _ = run(False)
    assert found(model) < 0.8
    assert "hospital has no training record with 'Party' of entities" in said
