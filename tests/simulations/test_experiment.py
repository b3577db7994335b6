"""The experiment file."""

import re
from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.model.lora import rank_of
from shared.model.multitask import build_model
from simulations.demo import CONFIG
from simulations.experiment import load_experiment, open_sites
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


def test_ranks_are_of_the_federations_institutions_and_within_its_bounds(tmp_path: Path) -> None:
    file, text = tmp_path / "experiment.toml", CONFIG.read_text()
    for ranks, said in (
        ("nobody = 4", r"\[ranks\] must be of \['hospital', 'law_firm', 'bank'\], not of \['nobody'\]"),
        ("bank = 4", r"\[ranks\] must be from 8 to 8 \(adapter\), not \{'bank': 4\}"),
    ):
        file.write_text(f"{text}\n[ranks]\n{ranks}\n")
        with pytest.raises(ConfigError, match=said):
            load_experiment(file)


def test_institutions_of_one_rank_share_a_model(tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    adapter = "[federation.adapter]\nmin_rank = 2\n"
    text = re.sub(r"(?m)^\[federation\.adapter\]\n", adapter, CONFIG.read_text())
    assert adapter in text
    file.write_text(text + "\n[ranks]\nhospital = 2\nlaw_firm = 2\n")
    experiment = load_experiment(file, data=SAMPLES, limit=20)
    model = build_model(experiment.federation)
    sites = open_sites(experiment, model)
    assert sites["bank"].model is model
    assert sites["hospital"].model is sites["law_firm"].model is not model
    assert {name: rank_of(site.model.encoder) for name, site in sites.items()} == {
        "hospital": 2,
        "law_firm": 2,
        "bank": 8,
    }
