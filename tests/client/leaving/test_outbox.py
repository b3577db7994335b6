"""The outbox: an update waits for the operator's word, and without it never leaves."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.keys import generate_node_key
from client.leaving import outbox, receipts
from client.leaving.receipts import Receipts, Release
from client.policy import Policy
from client.site import Site
from shared import codec
from shared.adapter import get_state
from shared.errors import ConfigError, HeldError, StoreError
from shared.protocol import Refusal, TrainReply, TrainRequest

RELEASE = Release("train", "ab" * 32, 3, 0.5, "{}", "cd" * 32, "7", 1, ("clauses",), None, None)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def institution(tmp_path: Path) -> Path:
    """An institution's file over the state folder, with its key."""
    generate_node_key(tmp_path / "node.key")
    file = tmp_path / "institution.toml"
    file.write_text('name = "hospital"\n[data.clauses]\ntrain = "a.jsonl"\n', encoding="utf-8")
    return file


@contextmanager
def waiting(state: Path, seconds: float = 20.0) -> Iterator[tuple[str, list[Any]]]:
    """An update that waits in a thread, and what becomes of it."""
    ends: list[Any] = []

    def wait() -> None:
        try:
            outbox.wait(state, b"abc", RELEASE, seconds=seconds)
            ends.append("left")
        except Exception as error:
            ends.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield held_id(state), ends
    finally:
        thread.join()


def held_id(state: Path) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if entries := [each for each in outbox.waiting(state) if each["waiting"]]:
            (entry,) = entries
            return str(entry["id"])
        time.sleep(0.02)
    raise AssertionError("nothing is held")


def run_verb(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["outbox", *map(str, arguments)])


def test_an_approved_update_leaves(state: Path) -> None:
    with waiting(state) as (name, ends):
        (entry,) = outbox.waiting(state)
        assert (entry["sha256"], entry["tasks"], entry["waiting"]) == ("ab" * 32, ["clauses"], True)
        assert (state / "outbox" / name / outbox.UPDATE_FILE).read_bytes() == b"abc"
        outbox.decide(state, name, "approved")
        with pytest.raises(ConfigError, match="decided already"):
            outbox.decide(state, name, "rejected")
    assert ends == ["left"]
    assert outbox.waiting(state) == []


def test_a_rejected_update_does_not(state: Path) -> None:
    with waiting(state) as (name, ends):
        outbox.decide(state, name, "rejected")
    assert isinstance(ends[0], HeldError)
    assert "rejected" in str(ends[0])
    assert outbox.waiting(state) == []


def test_an_update_that_nobody_decides_on_does_not(state: Path) -> None:
    with pytest.raises(HeldError, match="did not approve it within 0 s"):
        outbox.wait(state, b"abc", RELEASE, seconds=0.3)
    assert list((state / "outbox").iterdir()) == []


def test_an_unknown_update_cannot_be_approved(state: Path) -> None:
    for name in ("abcd", "..", "", "../../etc"):
        with pytest.raises(ConfigError, match="lists those that wait"):
            outbox.decide(state, name, "approved")


def test_after_a_crash_an_update_can_no_longer_leave(state: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from client.leaving import outbox\n"
        "from client.leaving.receipts import Release\n"
        "release = Release('train', 'a', 3, 0.5, '{}', 'd', None, 1, (), None, None)\n"
        f"outbox.wait(Path({str(state)!r}), b'abc', release, seconds=60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    name = held_id(state)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (entry,) = outbox.waiting(state)
    assert entry["waiting"] is False
    with pytest.raises(ConfigError, match="can no longer leave"):
        outbox.decide(state, name, "approved")
    with pytest.raises(HeldError):
        outbox.wait(state, b"next", RELEASE, seconds=0.0)
    assert outbox.waiting(state) == [], "what the crash left is gone"


@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_a_site_holds_its_update_until_the_operator_decides(
    make_site: Callable[..., Site], tmp_path: Path, institution: Path, decision: str
) -> None:
    bare = make_site("clauses", policy=Policy(hold=True))
    state = tmp_path / "state"
    site = Site(**(vars(bare) | {"state": state, "receipts": Receipts(state, tmp_path / "node.key")}))
    blob = codec.encode(get_state(site.model), "float32")
    replies: list[Any] = []
    request = TrainRequest(spec_digest=site.federation.digest, run="r1", round=1, rounds=2, state=blob)
    thread = threading.Thread(target=lambda: replies.append(site.answer(request, run="7")))
    thread.start()
    name = held_id(state)
    listed = json.loads(run_verb(institution, "--json").stdout)
    assert [(each["id"], each["waiting"], each["run"]) for each in listed["held"]] == [(name, True, "r1")]
    assert listed["receipts"] == [], "nothing has left yet"
    assert run_verb(institution, f"--{decision}", name).exit_code == 0
    thread.join()
    (reply,) = replies
    (receipt,) = receipts.read(state)
    if decision == "approve":
        assert isinstance(reply, TrainReply)
        assert (receipt["kind"], receipt["sha256"]) == ("train", listed["held"][0]["sha256"])
    else:
        assert isinstance(reply, Refusal)
        assert (reply.kind, receipt["kind"]) == ("held", "refusal")
        assert "rejected" in reply.reason


@pytest.mark.parametrize(("hold", "deadline", "most"), [(5.0, 60.0, 5.0), (3600.0, 60.0, 60.0), (9.0, 0.001, 0.0)])
def test_an_update_waits_no_longer_than_the_coordinator(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch, hold: float, deadline: float, most: float
) -> None:
    policy = Policy(hold=True, hold_seconds=hold)
    site = make_site("clauses", policy=policy, rounds={"deadline_seconds": deadline})
    wait = Mock(side_effect=HeldError("not in time"))
    monkeypatch.setattr(outbox, "wait", wait)
    blob = codec.encode(get_state(site.model), "float32")
    reply = site.answer(TrainRequest(spec_digest=site.federation.digest, run="r1", round=1, rounds=2, state=blob))
    assert isinstance(reply, Refusal)
    assert reply.kind == "held"
    assert max(0.0, most - 30) <= wait.call_args.kwargs["seconds"] <= most


def test_the_verb_lists_verifies_and_names_what_is_broken(institution: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert json.loads(run_verb(institution, "--json").stdout) == {"verified": False, "held": [], "receipts": []}
    log = Receipts(state, tmp_path / "node.key")
    for _ in range(3):
        log.append(RELEASE)
    shown = run_verb(institution, "--verify")
    assert shown.exit_code == 0
    assert "3 in all" in shown.stdout
    assert "none edited, missing or moved" in shown.stdout
    lines = (state / receipts.FILE).read_text(encoding="utf-8").splitlines(keepends=True)
    (state / receipts.FILE).write_text(lines[0] + lines[2], encoding="utf-8")
    broken = run_verb(institution, "--verify")
    assert broken.exit_code == 1
    assert isinstance(broken.exception, StoreError)
    assert "Receipt 2 " in str(broken.exception)
    assert run_verb(institution, "--approve", "x", "--reject", "y").exit_code == 2
