"""The experiment file."""

from pathlib import Path

import pytest

from shared.errors import ConfigError
from simulations.demo import CONFIG
from simulations.experiment import load_experiment
from simulations.samples import SAMPLES

CONFIGS = sorted(CONFIG.parent.glob("*.toml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_example_is_valid(config: Path) -> None:
    experiment = load_experiment(config, data=SAMPLES)
    assert set(experiment.institutions) == set(experiment.federation.rounds.institutions)


def test_the_lower_limit_holds() -> None:
    real = CONFIG.with_name("real.toml")
    for limit, entities, questions in ((None, None, 150), (300, 300, 150), (100, 100, 100)):
        hospital = load_experiment(real, data=SAMPLES, limit=limit).institutions["hospital"]
        assert (hospital["medical_ner"].limit, hospital["medical_qa"].limit) == (entities, questions)


def test_institutions_must_be_those_of_the_federation(tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text(CONFIG.read_text().replace("[institutions.bank.", "[institutions.banque."))
    named = file.read_text().replace("[federation.rounds]", '[federation.rounds]\ninstitutions = ["bank"]\nquorum = 1')
    file.write_text(named)
    with pytest.raises(ConfigError, match="exactly \\['bank'\\]"):
        load_experiment(file)
