"""A real deployment on loopback, with the tiny BERT: daemons, TLS, node keys, rounds, release."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import BertModel

from client.personal import write_own_bundle
from client.predict import open_bundle
from server import rounds
from server.running import open_store, release_run
from server.store import Store
from shared.adapter import get_state
from shared.bundle import load_bundle
from shared.model import build_model
from simulations.engine import LocalGrid
from simulations.experiment import Experiment, open_sites
from simulations.results import rows_of_run

if TYPE_CHECKING:
    from tests.simulations.conftest import Deployed


@pytest.mark.xdist_group("deployed")
@pytest.mark.timeout(600)
# peft 0.21 reads a property that transformers 5.23 renames.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_deployment_ends_as_the_simulator_does_and_its_bundle_loads(
    tmp_path: Path, experiment: Experiment, deployed: "Deployed", tiny_bert: Path
) -> None:
    home, run_id = deployed.home, deployed.run_id
    with open_store(home.root) as store:
        assert store.run(run_id)["status"] == "completed"
        trained = store.load_checkpoint(run_id, 2)
    federation = experiment.federation
    model = build_model(federation)
    initial = get_state(model)
    with Store.open(f"sqlite:///{tmp_path / 'sim.db'}", checkpoints=tmp_path / "sim") as store:
        simulated_run = store.create_run(federation)
        rounds.run(
            LocalGrid(open_sites(experiment, model)),
            federation=federation,
            store=store,
            run_id=simulated_run,
            initial_state=initial,
            announce=lambda _: None,
        )
        simulated = store.load_checkpoint(simulated_run, 2)
    assert any(np.abs(simulated[name] - initial[name]).max() > 1e-3 for name in initial)
    for name, array in simulated.items():
        np.testing.assert_allclose(trained[name], array, atol=1e-4, err_msg=name)

    rows = rows_of_run(home.root, run_id)
    assert {(row.institution, row.task) for row in rows} == {
        (name, task) for name, tasks in experiment.institutions.items() for task in tasks
    }
    assert all(row.bytes_up > 0 and row.seconds > 0 for row in rows)

    bundle = release_run(home.root, run_id, tmp_path / "bundle")
    assert json.loads((bundle / "metrics.json").read_text())["digest"] == federation.digest
    _check_plain_peft(bundle, tiny_bert)

    for name, tasks in experiment.institutions.items():  # all daemons are down
        own = load_bundle(write_own_bundle(deployed.folder / name / "institution.toml", tmp_path / name))
        released = load_bundle(bundle).arrays
        assert own.tasks == sorted(tasks)
        assert all(np.array_equal(array, released[key]) for key, array in own.arrays.items())


def _check_plain_peft(bundle: Path, tiny_bert: Path) -> None:
    """The adapter loaded by plain peft, and the head by hand, give the logits of `collegium predict`."""
    predictor = open_bundle(bundle)
    text = "The buyer pays 7 euros."
    ours = predictor.logits("clauses", {"text": text})
    base = BertModel.from_pretrained(tiny_bert, add_pooling_layer=False)
    plain = PeftModel.from_pretrained(base, str(bundle / "adapter")).eval()
    head = predictor.model.heads["clauses"]
    inputs = predictor.model.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        states = plain(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        theirs = head(states, inputs["attention_mask"], {})[0].numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
