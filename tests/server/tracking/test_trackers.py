"""A run in each tracker, by its real library, read back from disk; where a library is not installed, its test skips."""

import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.home import ServerHome, Tracking, read_settings
from server.opening import open_store
from server.store import Reply, Score, Store
from server.tracking.following import Follower, parameters
from server.tracking.trackers import MLflow, TensorBoard, Tracker, Wandb, check_trackers
from shared.errors import ConfigError
from shared.federation import Federation
from shared.state import State

ROUND = {
    "score": 0.7,
    "seconds": 20.0,
    "bytes/up": 1000.0,
    "bytes/down": 500.0,
    "epsilon/hospital": 3.0,
    "validation/clauses/hospital": 0.7,
}
"""What is measured in round 2."""


@pytest.fixture
def store(home: ServerHome) -> Iterator[Store]:
    with open_store(home.root) as opened:
        yield opened


@pytest.fixture
def run(store: Store, tiny_federation: Callable[..., Federation], monkeypatch: pytest.MonkeyPatch) -> str:
    """Of two rounds, completed, whose release is a folder with two files."""

    def release(store: Store, run: str, folder: Path) -> Path:
        (folder / "adapter").mkdir(parents=True)
        (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
        (folder / "README.md").write_text("# tiny\n")
        return folder

    monkeypatch.setattr("server.tracking.following.release", release)
    made = store.create_run(tiny_federation())
    store.move_run(made, "running")
    for number in (1, 2):
        store.save_checkpoint(made, number, State({"a": np.zeros(1, np.float32)}))
        store.add_reply(made, Reply(number, "train", "hospital", "ok", bytes_up=1000, bytes_down=500))
        store.add_spending(made, number, "hospital", 1.5 * number, None)
        store.add_scores(made, [Score(number, "validation", "hospital", "clauses", "macro_f1", 0.5 + number / 10, 9)])
        store.add_round(made, number, 10.0 * number, {number: 0.5 + number / 10})
    store.add_scores(made, [Score(2, "test", "hospital", "clauses", "macro_f1", 0.6, 9)])
    store.move_run(made, "completed")
    return made


def follower(home: ServerHome, store: Store, said: list[str] | None = None, **trackers: Tracker) -> Follower:
    return Follower(store, trackers, home.state / "tracking.json", (said if said is not None else []).append)


class Kept:
    """A tracker that keeps what it is told, or fails."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.failing = False

    def _keep(self, *what: Any) -> None:
        if self.failing:
            raise RuntimeError("no network")
        self.told.append(what)

    def begin(self, run: str, name: str, parameters: Any) -> None:
        self._keep("begin", run)

    def scalars(self, run: str, step: int, values: Any) -> None:
        self._keep(step, values)

    def release(self, run: str, folder: Path) -> None:
        self._keep("release", (folder / "README.md").read_text())

    def end(self, run: str, *, completed: bool) -> None:
        self._keep("end", completed)


def test_each_round_is_told_once_over_restarts_and_then_the_release(home: ServerHome, store: Store, run: str) -> None:
    tracker = Kept()
    for _ in range(2):
        mine = follower(home, store, kept=tracker)
        for _ in range(2):
            mine.look()
    assert [each[0] for each in tracker.told] == ["begin", 1, 2, 2, "release", "end"]
    assert tracker.told[2] == (2, ROUND)
    assert tracker.told[3] == (2, {"test/clauses/hospital": 0.6})
    assert tracker.told[-1] == ("end", True)


def test_one_that_fails_is_told_of_once_and_catches_up_and_others_go_on(
    home: ServerHome, store: Store, run: str
) -> None:
    good, bad, said = Kept(), Kept(), list[str]()
    bad.failing = True
    mine = follower(home, store, said, bad=bad, good=good)
    for _ in range(3):
        mine.look()
    assert [each[0] for each in good.told][-1] == "end"
    assert said == ["bad fails, and is tried again: RuntimeError: no network"]
    bad.failing = False
    mine.look()
    assert bad.told == good.told


def test_what_is_not_installed_is_said_before_the_server_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.tracking.trackers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"collegium\[mlflow,wandb\]"):
        check_trackers(Tracking(mlflow="http://x", wandb="y"))
    check_trackers(Tracking())


def test_a_line_each_in_the_settings(home: ServerHome) -> None:
    lines = 'tensorboard = "runs"\nmlflow = "sqlite:////x/mlflow.db"\nwandb = "collegium"\n'
    home.settings_file.write_text(f"{home.settings_file.read_text()}\n[tracking]\n{lines}")
    assert read_settings(home).tracking == Tracking(
        tensorboard=Path("runs"), mlflow="sqlite:////x/mlflow.db", wandb="collegium"
    )


@pytest.mark.extra
def test_tensorboard_has_the_run(home: ServerHome, store: Store, run: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from importlib import import_module

    follower(home, store, tensorboard=TensorBoard(tmp_path / "runs")).look()
    accumulator = import_module("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(tmp_path / "runs" / run)).Reload()
    for tag, value in ROUND.items():
        assert [(each.step, round(each.value, 5)) for each in found.Scalars(tag)][-1] == (2, value)
    assert [each.step for each in found.Scalars("score")] == [1, 2]
    text = {tag: found.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in ("parameters", "release")}
    assert "| rounds.count | 2 |" in text["parameters"]
    assert "adapter/adapter_model.safetensors" in text["release"]


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's, of SQLAlchemy
def test_mlflow_has_the_run(home: ServerHome, store: Store, run: str, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for _ in range(2):
        follower(home, store, mlflow=MLflow(uri, tmp_path / "artifacts")).look()
    client = mlflow.MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert (found.info.run_name, found.info.status) == (run, "FINISHED")
    assert found.data.params["rounds.count"] == "2"
    assert found.data.params == parameters(store, run)
    assert {key: found.data.metrics[key] for key in ROUND} == ROUND
    assert [each.step for each in client.get_metric_history(found.info.run_id, "score")] == [1, 2]
    assert found.data.metrics["test/clauses/hospital"] == 0.6
    assert [each.path for each in client.list_artifacts(found.info.run_id, "release/adapter")] == [
        "release/adapter/adapter_model.safetensors"
    ]


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's, of SQLAlchemy
def test_mlflow_takes_up_a_run_and_says_how_it_ended(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri)
    for completed, ended in ((False, "FAILED"), (True, "FINISHED")):
        tracker = MLflow(uri, tmp_path / "artifacts")  # as after a restart
        tracker.begin("r1", "tiny", {"rounds.count": "2"})
        for status in ("RUNNING", ended):
            (found,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
            assert found.info.status == status
            tracker.end("r1", completed=completed)


@pytest.mark.slow
def test_wandb_has_the_run_offline(
    home: ServerHome, store: Store, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    follower(home, store, wandb=Wandb("collegium", tmp_path / "wandb")).look()
    (file,) = (tmp_path / "wandb").rglob("run-*.wandb")
    assert _exit_code(file) == 0
    records = list(_records(file))
    assert {each.run.run_id for each in records if each.HasField("run")} == {run}
    config = {item.key: item.value_json for each in records for item in each.run.config.update}
    assert config["rounds.count"] == '"2"'
    rows = [
        {"/".join(item.nested_key) or item.key: float(item.value_json) for item in each.history.item}
        for each in records
        if each.history.item
    ]
    assert {key: rows[1][key] for key in ROUND} == ROUND
    assert [row["round"] for row in rows] == [1, 2, 2]
    (artifact,) = [
        each.request.log_artifact.artifact if each.HasField("request") else each.artifact
        for each in records
        if each.HasField("artifact")
    ]
    assert (artifact.name, artifact.type) == (f"release-{run}", "model")
    assert {entry.path for entry in artifact.manifest.contents} == {"README.md", "adapter/adapter_model.safetensors"}
    failed = Wandb("collegium", tmp_path / "failed")
    failed.begin("other", "tiny", {})
    failed.end("other", completed=False)
    (file,) = (tmp_path / "failed").rglob("run-*.wandb")
    assert _exit_code(file) == 1


def _exit_code(file: Path) -> int:
    """With which a run has ended; wandb's own process may write it a moment later."""
    ends = time.monotonic() + 60
    while not (found := [each.exit.exit_code for each in _records(file) if each.HasField("exit")]):
        assert time.monotonic() < ends, "wandb has not written that the run is over"
        time.sleep(0.1)
    return int(found[0])


def _records(file: Path) -> Iterator[Any]:
    """The records of wandb's file, which are framed as in a log of LevelDB: blocks of 32 KiB, seven bytes a piece."""
    from importlib import import_module

    kind = import_module("wandb.proto.wandb_internal_pb2").Record
    content, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, piece = struct.unpack("<IHB", content[at : at + 7])
        if at + 7 + length > len(content):
            return  # it is still being written
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if piece in (1, 4):  # the only one, or the last
            yield kind.FromString(whole)
            whole = b""
