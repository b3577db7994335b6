"""An institution that withdraws: not in later rounds, marked on earlier cards, and out of runs that begin before it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from collegium.__main__ import app
from server.release.making import release_run
from server.release.withdrawal import withdraw
from server.runs import steering
from server.runs.status import status_report
from server.runs.tables import print_status
from server.store import Store, events, withdrawn
from server.store.releases import add_withdrawal, ancestry, contributions
from shared.bundle import README_FILE, load_metrics, release_of, verify_bundle
from shared.errors import ConfigError, EnrolmentError
from shared.protocol import TrainRequest


def after_round(number: int, name: str, *, gone: bool = True) -> Any:
    """Listens for the end of a round, and has an institution withdraw then."""

    def tell(store: Store, text: str) -> None:
        if text.startswith(f"Round {number} of"):
            add_withdrawal(store, name, withdrawn=gone)

    return tell


def told(store: Store, run: str) -> list[str]:
    return [row["text"] for row in store.rows(events, run)]


def test_a_run_under_way_goes_on_without_it(world: Any) -> None:
    made = world()
    run = made.run(tell=after_round(1, "bank"))
    assert made.grid.asked(TrainRequest).count("bank") == 1
    with made.open() as store:
        assert "From round 2 on without bank, which has withdrawn" in told(store, run)
        assert not any("bank missing" in text for text in told(store, run))
        assert contributions(store, run, 3) == {
            "hospital": {run: [1, 2, 3]},
            "law_firm": {run: [1, 2, 3]},
            "bank": {run: [1]},
        }


def test_said_in_error_it_is_asked_again(world: Any) -> None:
    made = world()
    away, back = after_round(1, "bank"), after_round(2, "bank", gone=False)

    def tell(store: Store, text: str) -> None:
        away(store, text)
        back(store, text)

    run = made.run(tell=tell)
    with made.open() as store:
        assert "From round 3 on again with bank, which has not withdrawn" in told(store, run)
        assert contributions(store, run, 3)["bank"] == {run: [1, 3]}


def test_without_a_quorum_a_run_ends_and_says_why(world: Any) -> None:
    made = world(rounds={"count": 2, "quorum": 3})
    with pytest.raises(ConfigError, match=r"Expected at least 3 institutions, but of .* bank have withdrawn"):
        made.run(tell=after_round(1, "bank"))


def test_earlier_cards_are_marked_and_status_says_whose(
    world: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = world()
    run, root = made.run(), made.home.root
    first = release_run(root, None, tmp_path / "first")
    with made.open() as store:
        (consented,) = [made.consent(release_of(first), "bank")]
    moved = Path(release_run(root, None, tmp_path / "second")).rename(tmp_path / "moved")
    changed = release_run(root, None, tmp_path / "changed")
    (changed / README_FILE).write_text("Changed.")
    found = json.loads(
        CliRunner()
        .invoke(app, ["server", "withdraw", "bank", "--home", str(root), "--mark", str(moved), "--json"])
        .stdout
    )
    assert found["without_from"] == {run: 4}
    assert found["marked"] == [str(first), str(moved)]
    assert found["unmarked"].keys() == {str(tmp_path / "second"), str(changed)}
    assert "as it was signed" in found["unmarked"][str(changed)]
    for bundle in (first, moved):
        verify_bundle(bundle, (root / "public" / "release.pub").read_text().strip())
        card = (bundle / README_FILE).read_text()
        assert "**An institution that is not named here has withdrawn" in card
        assert f"Its updates of rounds 1-3 of run {run} are in this model; from round 4 of run {run} on it is" in card
        assert "bank" not in card
    assert release_of(first) == release_of(moved), "the model is as it was, and so are the consents"
    assert not list(tmp_path.glob(".*"))
    status = status_report(root, None)
    assert [row["institution"] for row in status["withdrawn"]] == ["bank"]
    assert [row["folder"] for row in status["releases"]] == [
        str(tmp_path / name) for name in ("first", "second", "changed")
    ]
    print_status(status)
    assert "Withdrawn" in capsys.readouterr().out
    assert consented.exists()
    with made.open() as store:
        assert withdrawn(store).keys() == {"bank"}
    withdraw(root, "bank", undo=True)
    assert "withdrawn" not in (first / README_FILE).read_text()
    with made.open() as store:
        assert withdrawn(store) == {}
    with pytest.raises(ConfigError, match="but bank has not"):
        withdraw(root, "bank", undo=True)
    with pytest.raises(EnrolmentError, match="it is 'school'"):
        withdraw(root, "school")


def test_a_release_after_it_says_so_of_the_rounds_that_are_in_it(world: Any, tmp_path: Path) -> None:
    made = world()
    run = made.run(tell=after_round(2, "bank"))
    bundle = release_run(made.home.root, None, tmp_path / "bundle")
    (one,) = load_metrics(bundle)["withdrawn"]
    assert one["rounds"] == {run: [1, 2]}
    card = (bundle / README_FILE).read_text()
    assert f"has withdrawn ({one['time'][:10]}). Its updates of rounds 1-2 of run {run} are in this model" in card
    assert f"from round 3 of run {run} on it is not in it" in card


def test_a_run_begins_before_it_first_took_part(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = world(rounds={"count": 3, "grace_seconds": 0.0})
    made.grid.offline = {"bank"}

    def come(store: Store, text: str) -> None:
        if text.startswith("Round 2 of"):
            made.grid.offline.clear()

    run, root = made.run(tell=come), made.home.root
    monkeypatch.setattr(steering, "_check_up", lambda folder: None)
    with made.open() as store:
        assert contributions(store, run, 3)["bank"] == {run: [3]}
    with pytest.raises(ConfigError, match="the agreement names it and it has not withdrawn"):
        steering.start(root, run, "bank")
    withdraw(root, "bank")
    queued = steering.start(root, None, "bank")
    assert queued.note == f"It begins with the state of run {run} after round 2"
    with made.open() as store:
        assert ancestry(store, queued.run_id, 0) == [(run, 2), (queued.run_id, 0)]
        store.move_run(queued.run_id, "stopped")
        with pytest.raises(ConfigError, match=r"bank has none in it"):
            steering.start(root, f"{run}:2", "bank")
        store.keep_checkpoints(run, {0, 3}, older_than=0.0)
    again = steering.start(root, run, "bank")
    assert again.note == f"It begins with the state of run {run} after round 0", "the last one that is still stored"
    second = made.run(parent=(run, 2))
    with made.open() as store:
        assert "From round 1 on without bank, which has withdrawn" in told(store, second)
        assert set(contributions(store, second, 3)) == {"hospital", "law_firm"}
    bundle = release_run(root, second, tmp_path / "bundle")
    card = (bundle / README_FILE).read_text()
    assert "None of its updates is in this model." in card
    assert f"It comes from run {run} up to round 2, then run {second} up to round 3." in card
