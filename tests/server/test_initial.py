"""What a run begins with: drawn by the coordinator itself, wherever it stands and whatever the backbone is called."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from server.app import _initial
from server.home import HOME_VARIABLE
from server.opening import open_store
from shared.errors import BackboneError
from shared.model.initial import initial_state
from simulations.attacks.coordinator import new_home
from simulations.attacks.stage import tiny_federation


def test_a_relative_backbone_starts_from_the_coordinators_folder(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = new_home(tmp_path / "coordinator")
    shutil.copytree(tiny_bert, home.root / "bert")
    agreed = tiny_federation(tiny_bert)
    here = agreed.model_copy(update={"backbone": agreed.backbone.model_copy(update={"name": "bert"})})
    monkeypatch.chdir(tmp_path)
    with open_store(home.root) as store:
        run = store.create_run(here)
        monkeypatch.setenv(HOME_VARIABLE, str(home.root))
        begun = _initial(store, run, here).model
        monkeypatch.delenv(HOME_VARIABLE)
        with pytest.raises(BackboneError, match="'bert'"):
            _initial(store, run, here)
    expected = initial_state(agreed)
    assert begun.keys() == expected.keys()
    assert all(np.array_equal(begun[name], expected[name]) for name in expected)
