"""The experiment file."""

import re
from pathlib import Path

import pytest

from shared.errors import ConfigError
from simulations.demo import CONFIG
from simulations.experiment import load_experiment
from simulations.samples import SAMPLES


def test_the_lower_limit_holds() -> None:
    real = CONFIG.with_name("real.toml")
    for limit, entities, questions in ((None, None, 150), (300, 300, 150), (100, 100, 100)):
        hospital = load_experiment(real, data=SAMPLES, limit=limit).institutions["hospital"]
        assert (hospital["medical_ner"].limit, hospital["medical_qa"].limit) == (entities, questions)


def test_institutions_must_be_those_of_the_federation(tmp_path: Path) -> None:
    text = CONFIG.read_text()
    rounds = re.sub(r"(?ms)^\[federation\.rounds\].*?(?=^\[)", "", text)
    file = tmp_path / "experiment.toml"
    file.write_text(rounds + '\n[federation.rounds]\ninstitutions = ["bank"]\nquorum = 1\n')
    with pytest.raises(ConfigError, match=r"exactly \['bank'\]"):
        load_experiment(file)
