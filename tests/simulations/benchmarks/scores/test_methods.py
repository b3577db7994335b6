"""Every row of the tables of methods is an experiment that the product accepts."""

from pathlib import Path

import pytest
import tomli_w

from simulations.benchmarks.scores.methods import SEEDS, TASK, experiment_of, settings
from simulations.experiment import load_experiment

DATA = Path(__file__).parents[5] / "shared" / "data"
pytestmark = pytest.mark.skipif(not (DATA / TASK).is_dir(), reason=f"no real text in {DATA}")
ROWS = {name: setting for name, setting in settings().items() if setting.seed == SEEDS[0]}


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_an_experiment(tmp_path: Path, name: str) -> None:
    setting, file = ROWS[name], tmp_path / "experiment.toml"
    file.write_text(tomli_w.dumps(experiment_of(setting)))
    experiment = load_experiment(file, data=DATA, limit=300, workdir=tmp_path)
    assert len(experiment.institutions) == setting.institutions
    expected = "rolora" if setting.method == "auto" else setting.method
    assert experiment.federation.method_name == expected
    held = {name for name, tasks in experiment.institutions.items() if tasks[TASK].test}
    assert held == {"site-01"}
