"""`collegium client consent`: one signature for one release, by an institution that its agreement names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from client.keys import generate_node_key
from collegium.__main__ import app
from shared.bundle import README_FILE, seal, write_bundle
from shared.bundle.consent import read_consent
from shared.bundle.manifest import check_consent
from shared.errors import BundleError, ConfigError
from shared.federation import Federation

SITE = """
name = "{name}"
[data.clauses]
train = "clauses.jsonl"
licence = "CC-BY-4.0"
[data.letters]
train = "letters.jsonl"
licence = "another federation's"
[data.entities]
train = "entities.jsonl"
"""


@pytest.fixture
def bundle(tiny_federation: Callable[..., Federation], tmp_path: Path) -> Path:
    layer = "adapter/base_model.model.encoder.layer.0.attention.self.query"
    arrays = {f"{layer}.lora_{f}.weight": np.ones(n, np.float32) for f, n in (("A", (4, 32)), ("B", (32, 4)))}
    key = Ed25519PrivateKey.generate()
    told: dict[str, Any] = {"settings": {}, "tasks": []}
    return write_bundle(
        tmp_path / "bundle", tiny_federation(), arrays, {}, metrics=told, readme="", finish=lambda b: seal(b, key)
    )


def site(folder: Path, name: str = "hospital") -> Path:
    folder.mkdir()
    generate_node_key(folder / "node.key")
    (folder / "institution.toml").write_text(SITE.format(name=name).replace("another federation's", "CC0-1.0"))
    return folder / "institution.toml"


def test_it_signs_one_release_with_the_licences_of_its_tasks(
    bundle: Path, tmp_path: Path, tiny_federation: Callable[..., Federation]
) -> None:
    out, file = tmp_path / "hospital.consent", site(tmp_path / "hospital")
    words = ["client", "consent", str(bundle), "--institution", str(file), "--out", str(out), "--json"]
    done = CliRunner().invoke(app, words)
    told = json.loads(done.stdout)
    assert told["licences"] == {"clauses": "CC-BY-4.0"}, "of tasks that are not in the release nothing is told"
    signed = read_consent(out)
    check_consent(signed, told["release"], tiny_federation())
    assert (signed.name, signed.key) == ("hospital", (file.parent / "node.pub").read_text().strip())
    again = CliRunner().invoke(app, words)
    assert isinstance(again.exception, ConfigError)
    assert "use --out" in str(again.exception)


def test_nothing_is_signed_of_another_federation_or_a_changed_bundle(bundle: Path, tmp_path: Path) -> None:
    bank, hospital = site(tmp_path / "bank", "bank"), site(tmp_path / "hospital")
    runner = CliRunner()
    out = str(tmp_path / "consent")
    words = ["client", "consent", str(bundle), "--out", out, "--institution"]
    assert "agreement names ['hospital', 'law_firm']" in str(runner.invoke(app, [*words, str(bank)]).exception)
    (bundle / README_FILE).write_text("changed")
    assert isinstance(runner.invoke(app, [*words, str(hospital)]).exception, BundleError)
    assert not Path(out).exists()
