"""What a run came to, and where it is shown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
from typer.testing import CliRunner

from collegium.__main__ import app
from server.home import ServerHome
from server.opening import open_store
from server.release.making import release
from server.rounds.outcomes import Outcome, outcomes
from server.runs import status
from server.store import Reply, Score
from shared.adapter import get_state
from shared.federation import Federation
from shared.model.multitask import build_model
from shared.state import State


class NobodyHome:
    """An operator door behind which nobody is enrolled."""

    def __init__(self, home: ServerHome) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def nodes(self) -> list[Any]:
        return []

    def refused(self) -> list[Any]:
        return []


def scored(number: int, split: str, value: float, metric: str = "macro_f1") -> Score:
    return Score(number, split, "hospital", "clauses", metric, value, 9)


def test_only_the_released_round_counts() -> None:
    rows = [scored(0, "test", 0.1), scored(1, "validation", 0.9), scored(2, "test", 0.5), scored(2, "personal", 0.8)]
    assert outcomes([vars(row) for row in rows], 2) == [Outcome("hospital", "clauses", "macro_f1", 0.1, 0.5, 0.8)]
    assert outcomes([vars(row) for row in rows], 1) == []
    assert outcomes([vars(row) for row in rows[:2] + rows[3:]], 2)[0].after is None


@pytest.mark.parametrize("fine_tuned", [True, False])
def test_status_and_release_show_what_there_is(
    home: ServerHome,
    tmp_path: Path,
    tiny_federation: Callable[..., Federation],
    monkeypatch: pytest.MonkeyPatch,
    fine_tuned: bool,
) -> None:
    federation = tiny_federation(personal={"fine_tune_epochs": 1} if fine_tuned else None)
    away = Score(2, "validation", "law_firm", "clauses", "macro_f1", 0.1, 9)
    with open_store(home.root) as store:
        run = store.create_run(federation)
        for number in (0, 1):
            store.save_checkpoint(run, number, State(get_state(build_model(federation))))
        store.add_scores(run, [scored(0, "test", 0.25)])
        store.add_scores(run, [scored(1, "test", 0.5), scored(1, "test", 0.625, "accuracy")])
        if fine_tuned:
            store.add_scores(run, [scored(1, "personal", 0.75)])
        store.add_scores(run, [scored(1, "validation", 0.9), *([] if fine_tuned else [away])])
        store.add_round(run, 1, 1.0, {1: 0.9})
        for kind, sent in (("train", 1000), ("evaluate validation", 10)):
            store.add_reply(run, Reply(1, kind, "hospital", "ok", bytes_up=sent, bytes_down=2 * sent))
        store.update_run(run, status="completed")
        folder = release(store, run, tmp_path / "bundle")
    monkeypatch.setattr(status, "OperatorClient", NobodyHome)
    said = CliRunner().invoke(app, ["server", "status", str(home.root), "--json"])
    report = json.loads(said.stdout)
    assert [(row["bytes_up"], row["bytes_down"]) for row in report["rounds"]] == [(1010, 2020)]
    (row,) = report["tests"]
    personal = 0.75 if fine_tuned else None
    assert row == vars(Outcome("hospital", "clauses", "macro_f1", 0.25, 0.5, personal))
    table = CliRunner().invoke(app, ["server", "status", str(home.root)])
    assert ("personal" in table.stdout) == ("0.75" in table.stdout) == fine_tuned
    readme = (folder / "README.md").read_text()
    assert ("| 0.250 | 0.500 | 0.750 |" in readme) == fine_tuned
    assert ("| institution | task | metric | before | after |\n" in readme) != fine_tuned
    carried = [] if fine_tuned else [{"institution": "law_firm", "task": "clauses", "round": 2}]
    assert json.loads((folder / "metrics.json").read_text())["carried"] == carried
    missed = "Not validated in that round: law_firm's clauses (its score of round 2 counted instead)."
    assert (missed in readme) != fine_tuned
    assert ("with law_firm's clauses as in round 2" in table.output.replace("\n", " ")) != fine_tuned
