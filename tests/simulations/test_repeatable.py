"""A run that is repeated ends with the same bytes: in another process, whatever Python makes of sets there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulations.chaos.playing import tiny_experiment

RUN = """
import hashlib, json, sys
from pathlib import Path

from shared.process.memory import loading

with loading():
    from server.release.making import release
    from server.store import Store, checkpoints
    from shared.adapter import get_state
    from shared.bundle.manifest import release_of
    from shared.model.multitask import build_model
    from simulations.engine import run_federation
    from simulations.experiment import Experiment, open_sites

experiment = Experiment.model_validate_json(Path(sys.argv[1]).read_text())
folder, model = Path(sys.argv[2]), build_model(experiment.federation)
with Store.open(f"sqlite:///{folder}.db", checkpoints=folder) as store:
    run = run_federation(open_sites(experiment, model), experiment.federation, get_state(model), store, lambda _: None)
    sums = {row["round"]: row["sha256"] for row in store.rows(checkpoints, run)}
    bundle = release(store, run, folder / "bundle", 5)
print(json.dumps([experiment.federation.digest, sums, release_of(bundle)]))
"""


@pytest.mark.slow
def test_a_run_is_repeated_to_the_bit(tmp_path: Path) -> None:
    experiment = tiny_experiment(tmp_path / "records")
    federation = experiment.federation.model_copy(
        update={
            "training": experiment.federation.training.model_copy(update={"epochs_per_round": 1}),
            "rounds": experiment.federation.rounds.model_copy(update={"count": 2, "method": "fedex"}),
        }
    )
    file = tmp_path / "experiment.json"
    file.write_text(experiment.model_copy(update={"federation": federation}).model_dump_json(exclude_none=True))
    found = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(file), str(tmp_path / seed)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert found[0] == found[1]
    assert len(found[0][1]) == 3
