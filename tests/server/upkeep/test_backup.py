"""A coordinator is copied while a real SuperLink serves it, and comes back as it was."""

import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from server.home import ServerHome
from server.opening import open_store
from server.service.operator import OperatorClient
from server.upkeep import backup as module
from server.upkeep.backup import backup, restore
from shared.errors import ConfigError
from shared.federation import Federation
from shared.flower.crypto import generate_key_pairs, public_key_to_bytes
from shared.state import State
from shared.upkeep.archive import Collected


def state(value: float) -> State:
    return State({"a": np.full(3, value, np.float32)})


def test_a_served_coordinator_comes_back_as_it_was(
    home: ServerHome, superlink: subprocess.Popen[bytes], tmp_path: Path, tiny_federation: Callable[..., Federation]
) -> None:
    with open_store(home.root) as store, OperatorClient(home) as operator:
        node = operator.register_node("hospital", public_key_to_bytes(generate_key_pairs()[1]))
        run = store.create_run(tiny_federation())
        for number in range(3):
            store.save_checkpoint(run, number, state(number))
        (home.checkpoints / run / "round-00009-of-nobody.safetensors").write_text("its row was never written")
        made = backup(home.root, tmp_path / "copy.tar")
        store.save_checkpoint(run, 3, state(3))
        store.add_event(run, "after the copy")
        assert superlink.poll() is None
        assert operator.nodes()[0].node_id == node, "the SuperLink goes on"
    assert made.stat().st_mode & 0o777 == 0o600
    again = ServerHome(restore(made, tmp_path / "again"))
    for file in ("settings_file", "ca_certificate", "ca_key", "server_key", "operator_token_file"):
        assert getattr(again, file).read_bytes() == getattr(home, file).read_bytes()
    assert not again.lock_file.exists()
    assert not again.logs.exists()
    with open_store(again.root) as store:
        assert store.run()["run"] == run
        assert store.last_round(run) == 2
        np.testing.assert_array_equal(store.load_checkpoint(run, 2).model["a"], state(2).model["a"])
        assert store.events_after(run, 0) == []
    assert len(list((again.checkpoints / run).iterdir())) == 3
    with closing(sqlite3.connect(again.superlink_database)) as flower:
        assert flower.execute("SELECT COUNT(*) FROM node").fetchone() == (1,)


def test_a_checkpoint_that_is_thrown_away_meanwhile(
    home: ServerHome, tmp_path: Path, tiny_federation: Callable[..., Federation], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(home.root) as store:
        run = store.create_run(tiny_federation())
        store.save_checkpoint(run, 0, state(0))
        store.save_checkpoint(run, 1, state(1))
    add = module._add_checkpoints

    def meanwhile(collected: Collected, of: ServerHome) -> None:
        add(collected, of)
        with closing(sqlite3.connect(home.state / "collegium.db")) as writer, writer:
            writer.execute("DELETE FROM checkpoints WHERE round = 0")
        for file in (home.checkpoints / run).glob("round-00000-*"):
            file.unlink()

    monkeypatch.setattr(module, "_add_checkpoints", meanwhile)
    again = restore(backup(home.root, tmp_path / "copy.tar"), tmp_path / "again")
    with open_store(again) as store:
        assert np.array_equal(store.load_checkpoint(run, 1).model["a"], state(1).model["a"])


def test_a_store_elsewhere_is_for_its_own_tool(home: ServerHome, tmp_path: Path) -> None:
    settings = home.settings_file.read_text()
    home.settings_file.write_text(settings + 'store_url = "postgresql+psycopg://me:secret@host/name"\n')
    (home.checkpoints / "run").mkdir()
    (home.checkpoints / "run" / "round-00000-abc.safetensors").write_text("state")
    with pytest.raises(ConfigError, match=r"it is postgresql\+psycopg://me:\*\*\*@host/name; .*pg_dump"):
        backup(home.root, tmp_path / "copy.tar")
    again = restore(backup(home.root, tmp_path / "copy.tar", without_store=True), tmp_path / "again")
    assert (again / "checkpoints" / "run" / "round-00000-abc.safetensors").read_text() == "state"


def test_a_copy_within_itself_is_refused(home: ServerHome) -> None:
    with pytest.raises(ConfigError, match="outside the folder that it is a copy of"):
        backup(home.root, home.root / "copy.tar")


def test_secrets_of_a_restored_folder_are_its_owners_alone(home: ServerHome, tmp_path: Path) -> None:
    again = ServerHome(restore(backup(home.root, tmp_path / "copy.tar"), tmp_path / "again"))
    assert {path.stat().st_mode & 0o077 for path in again.root.rglob("*")} == {0}
