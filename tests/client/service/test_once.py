"""`client up --once`: what makes a round, and two jobs that answer one each at a real coordinator."""

import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner

from client.cli import app
from client.institution import Institution
from client.keys import generate_node_key
from client.service.endings import MOST_DEATHS, Ending, Over, read_header, read_line
from client.service.once import OneRound
from server.enrolment.keys import read_public_key
from server.home import ServerHome, init_home, read_settings
from server.opening import open_store
from server.runs.steering import follow, start
from server.service.operator import OperatorClient
from server.store import rounds
from shared.errors import ProcessError
from shared.federation import Federation, federation_toml
from shared.fields import Scored
from shared.protocol import (
    EvaluateReply,
    EvaluateRequest,
    QueryReply,
    QueryRequest,
    Refusal,
    Reply,
    Request,
    TrainReply,
    TrainRequest,
    UnmaskReply,
    UnmaskRequest,
)
from simulations.demo import free_ports

INSTITUTION = Institution.model_validate({"name": "hospital", "data": {"codes": {"train": "codes.jsonl"}}})


def train(number: int = 1, rounds: int = 3) -> tuple[Request, Reply]:
    request = TrainRequest(spec_digest="d", run="r", round=number, rounds=rounds, state=b"")
    return request, TrainReply(
        institution="hospital", round=number, examples={}, losses={}, steps=1, seconds=0.1, update=b""
    )


def evaluate(split: Scored = "validation", *, released: bool = False) -> tuple[Request, Reply]:
    request = EvaluateRequest(spec_digest="d", run="r", round=1, split=split, state=b"", released=released)
    return request, EvaluateReply(institution="hospital", round=1, split=split, examples={}, scores={}, seconds=0.1)


def query() -> tuple[Request, Reply]:
    return QueryRequest(spec_digest="d", run="r"), QueryReply(institution="hospital", records={}, software="1")


def unmask() -> tuple[Request, Reply]:
    return UnmaskRequest(spec_digest="d", run="r", round=1, signatures={}), UnmaskReply(
        institution="hospital", round=1, seeds={}, keys={}
    )


def refused(asked: tuple[Request, Reply]) -> tuple[Request, Reply]:
    return asked[0], Refusal(institution="hospital", kind="policy", reason="No.")


def after(*asked: tuple[Request | None, Reply], scores: bool = True, masks: bool = False) -> Over | None:
    """Why a site ends after these answers; it must not end before the last of them."""
    one = OneRound(60.0)
    for request, reply in asked:
        assert one.over is None
        one.answered(request, reply, scores=scores, masks=masks)
    return one.over


def test_a_round_is_over_when_what_was_trained_is_scored() -> None:
    assert after(query(), evaluate("test"), train(), evaluate()) == Over(
        "Round 1 of 3 of run r is answered: trained and scored."
    )
    assert after(train(1), train(2)) is None, "the coordinator went on without the score"
    assert after(evaluate()) is None, "of a round that another job has trained"


def test_who_announces_nothing_to_score_has_answered_with_its_update() -> None:
    trained = Over("Round 1 of 3 of run r is answered: trained.")
    assert after(train(), scores=False) == trained
    assert after(train(), scores=False, masks=True) is None
    assert after(train(), unmask(), scores=False, masks=True) == trained
    assert after(train(), unmask(), scores=True, masks=True) is None


def test_after_the_last_round_the_released_model_is_waited_for() -> None:
    released = evaluate("test", released=True)
    over = Over("Run r is over: its released model is here.")
    assert after(train(3), evaluate(), evaluate("test"), released) == over
    assert after(train(3), released, scores=False) == over
    assert after(released) == over
    assert after(refused(released)) == Over("Run r is over.")


def test_a_refusal_ends_it_but_for_one_to_score() -> None:
    failed = Over("This site has refused a request (policy): No.", failed=True)
    assert after(refused(query())) == after((None, refused(query())[1])) == failed
    assert after(query(), refused(train())) == failed
    assert after(refused(evaluate("test"))) is None
    assert after(train(), refused(evaluate())) == Over(
        "Round 1 of 3 of run r is answered: not scored: see the refusal above."
    )


def test_nobody_is_waited_for_longer_than_agreed() -> None:
    now = 0.0
    one = OneRound(60.0, clock=lambda: now)
    now = 50.0
    assert one.left == 10.0
    assert one.waited() == Over("Nobody has asked this site to train within 60 s.", answered=False)
    one.answered(*train(), scores=True, masks=False)
    now = 70.0
    one.task_over()
    now = 80.0
    assert one.left == 50.0
    assert one.waited() == Over("Round 1 of 3 of run r is answered; nobody has asked for anything more within 60 s.")


def test_what_is_told_to_the_daemon_comes_as_it_was() -> None:
    for over in (Over("Ünd so"), Over('"quoted"\n', failed=True), Over("", answered=False)):
        assert read_line(over.line()) == over
        assert read_header(over.header()) == over
        assert over.header().isascii()
    assert read_line("ready") is None


def test_what_the_operator_is_told_and_when_it_is_an_error() -> None:
    ending = Ending()
    with pytest.raises(ProcessError, match="hospital was stopped before it had answered a round"):
        ending.outcome(INSTITUTION, connected=True)
    lines = ["ready", Over("Nobody asked.", answered=False).line(), "more"]
    assert list(ending.sift(lines[:1])) == ["ready"]
    assert not ending.reached()
    assert list(ending.sift(lines)) == ["ready", "more"]
    assert ending.reached()
    with pytest.raises(ProcessError, match=r"Nobody asked\. hospital was not connected to the coordinator at 127"):
        ending.outcome(INSTITUTION, connected=False)
    assert ending.outcome(INSTITUTION, connected=True) == "Nobody asked."
    assert list(ending.sift([Over("Later.").line()])) == []
    assert ending.outcome(INSTITUTION, connected=True) == "Nobody asked.", "the first word counts"
    answered, refused = Ending(), Ending()
    assert list(answered.sift([Over("Round 1.").line()])) == []
    assert answered.outcome(INSTITUTION, connected=False) == "Round 1."
    assert list(refused.sift([Over("This site has refused a request.", failed=True).line()])) == []
    with pytest.raises(ProcessError, match="has refused"):
        refused.outcome(INSTITUTION, connected=True)


def test_an_executor_that_dies_again_and_again_is_given_up() -> None:
    ending = Ending()
    assert [bool(ending.give_up(-9, "")) for _ in range(MOST_DEATHS)] == [False] * (MOST_DEATHS - 1) + [True]


def test_a_wait_belongs_to_once() -> None:
    told = CliRunner().invoke(app, ["up", "--wait", "5"])
    assert told.exit_code == 2
    assert "--once" in told.output


def job(file: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "collegium", "client", "up", "--once", *options, str(file)]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_job_answers_one_round(
    tmp_path: Path,
    tiny_federation: Callable[..., Federation],
    write_records: Callable[..., Path],
    coordinating: Callable[[ServerHome], AbstractContextManager[None]],
) -> None:
    public, operator = free_ports(2)
    home = init_home(tmp_path / "home", hosts=["localhost"], public_port=public, operator_port=operator)
    federation = tiny_federation(("hospital",), rounds={"count": 2})
    home.federation_file.write_text(federation_toml(federation), encoding="utf-8")
    (tmp_path / "federation.toml").write_bytes(home.federation_file.read_bytes())
    (tmp_path / "ca.crt").write_bytes(home.ca_certificate.read_bytes())
    generate_node_key(tmp_path / "node.key")
    records = str(write_records(tmp_path / "clauses.jsonl", "clauses"))
    institution = {
        "name": "hospital",
        "server": {"address": f"localhost:{read_settings(home).public_port}"},
        "data": {"clauses": {"train": records, "validation": records, "test": records}},
    }
    (file := tmp_path / "institution.toml").write_text(tomli_w.dumps(institution), encoding="utf-8")
    away = job(file, "--wait", "3")
    assert away.returncode == 1
    assert "was not connected to the coordinator" in away.stdout
    with coordinating(home):
        with OperatorClient(home) as known:
            known.register_node("hospital", read_public_key(tmp_path / "node.pub"))
        run = start(home.root).run_id
        for number in (1, 2):
            answered = job(file, "--wait", "120")
            assert answered.returncode == 0, answered.stdout
            assert set(re.findall(r"round (\d) of 2: trained", answered.stdout)) == {str(number)}, answered.stdout
            last = f"Run {run} is over" if number == 2 else f"Round {number} of 2 of run {run} is answered"
            assert last in answered.stdout.splitlines()[-1]
        assert follow(home.root, run, print, seen=0)["status"] == "completed"
        with open_store(home.root) as store:
            assert [row["participants"] for row in store.rows(rounds, run)] == [1, 1]
            assert store.run(run)["attempt"] == 1, "between two jobs the run waits, and does not fail"
