"""A run that is repeated ends with the same bytes: in another process, whatever Python makes of sets there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from server.release.making import release
from server.store import Store, checkpoints
from shared.adapter import get_state
from shared.bundle.manifest import release_of
from shared.model.multitask import build_model
from simulations.chaos.playing import tiny_experiment
from simulations.engine import run_federation
from simulations.experiment import Experiment, open_sites

ROOT = Path(__file__).parents[2]
AGAIN = """
import json, sys
from pathlib import Path

from tests.simulations.test_repeatable import run

print(json.dumps(run(*map(Path, sys.argv[1:]))))
"""


def run(file: Path, folder: Path) -> list[Any]:
    """Digests of an experiment's federation, of each round's checkpoint, and of the release."""
    experiment = Experiment.model_validate_json(file.read_text())
    federation, model = experiment.federation, build_model(experiment.federation)
    with Store.open(f"sqlite:///{folder}.db", checkpoints=folder) as store:
        done = run_federation(open_sites(experiment, model), federation, get_state(model), store, lambda _: None)
        sums = {str(row["round"]): row["sha256"] for row in store.rows(checkpoints, done)}
        bundle = release(store, done, folder / "bundle", 5)
    return [federation.digest, sums, release_of(bundle)]


@pytest.mark.slow
def test_a_run_is_repeated_to_the_bit(tmp_path: Path) -> None:
    experiment = tiny_experiment(tmp_path / "records")
    training = {"epochs_per_round": 1, "precision": "float32"}  # which "auto" is here, but not in the other process
    federation = experiment.federation.model_copy(
        update={
            "training": experiment.federation.training.model_copy(update=training),
            "rounds": experiment.federation.rounds.model_copy(update={"count": 2, "method": "fedex"}),
        }
    )
    file = tmp_path / "experiment.json"
    file.write_text(experiment.model_copy(update={"federation": federation}).model_dump_json(exclude_none=True))
    here = run(file, tmp_path / "here")
    assert len(here[1]) == 3
    seed = "1" if hash("a set's order") % 2 else "2"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
    command = [sys.executable, "-c", AGAIN, str(file), str(tmp_path / "there")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == here
