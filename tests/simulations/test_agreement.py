"""An agreement that changes in a deployment that runs: offered, approved, in force, without a restart of any daemon."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from typer.testing import CliRunner

from client.keys import generate_node_key
from collegium.__main__ import app
from server.enrolment.keys import read_public_key
from server.home import ServerHome, init_home, read_settings
from server.opening import open_store
from server.service.operator import OperatorClient
from server.store import replies, rounds
from shared.federation import Federation, federation_toml, load_federation
from simulations.demo import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
COLLEGIUM = [sys.executable, "-m", "collegium"]


class Process:
    """A daemon whose lines are kept."""

    def __init__(self, log: Path, *arguments: str | Path) -> None:
        self.log = log
        with log.open("w") as file:
            command = [*COLLEGIUM, *map(str, arguments)]
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def wait_for(self, words: str, seconds: float = 120.0) -> None:
        until = time.monotonic() + seconds
        while words not in (text := self.log.read_text()):
            assert self.process.poll() is None, text
            assert time.monotonic() < until, text
            time.sleep(0.1)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=60)


def run(*arguments: str | Path, code: int = 0) -> str:
    """What a command says that starts a run and follows it."""
    command = [*COLLEGIUM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def collegium(*arguments: str | Path, code: int = 0) -> str:
    """What any other command says, in this process, where all is loaded."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == code, done.output
    return f"{done.output}{done.exception or ''}"


@pytest.fixture
def federation(tiny_federation: Callable[..., Federation]) -> Federation:
    return tiny_federation(("hospital", "bank"), rounds={"count": 1, "quorum": 1, "grace_seconds": 20.0})


@pytest.fixture
def home(tmp_path: Path, federation: Federation) -> ServerHome:
    public, operator = free_ports(2)
    home = init_home(tmp_path / "home", hosts=["127.0.0.1"], public_port=public, operator_port=operator)
    home.federation_file.write_text(federation_toml(federation), encoding="utf-8")
    return home


@pytest.fixture
def site(tmp_path: Path, home: ServerHome, write_records: Callable[..., Path]) -> Callable[..., Path]:
    """Makes an institution's folder and enrols its key; returns its institution.toml."""

    def make(name: str, federation: Federation, **policy: Any) -> Path:
        folder = tmp_path / name
        write_records(folder / "clauses.jsonl", "clauses")
        generate_node_key(folder / "node.key")
        (folder / "federation.toml").write_text(federation_toml(federation), encoding="utf-8")
        (folder / "ca.crt").write_bytes(home.ca_certificate.read_bytes())
        values = {
            "name": name,
            "server": {"address": f"127.0.0.1:{read_settings(home).public_port}"},
            "data": {"clauses": {"train": "clauses.jsonl"}},
            "policy": policy,
        }
        (file := folder / "institution.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
        with OperatorClient(home) as operator:
            operator.register_node(name, read_public_key(folder / "node.pub"))
        return file

    return make


@pytest.fixture
def started(tmp_path: Path, home: ServerHome) -> Iterator[Callable[..., Process]]:
    """Starts daemons, the coordinator's first; stops them in the end."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str | Path) -> Process:
            log = tmp_path / f"{len(list(tmp_path.glob('*.log')))}.log"
            process = Process(log, *arguments)
            stack.callback(process.stop)
            return process

        start("server", "up", home.root).wait_for("is up")
        yield start


def took_part(home: ServerHome) -> dict[str, int]:
    """Of the latest run, the rounds that each institution's update was taken in."""
    with open_store(home.root) as store:
        latest = str(store.run()["run"])
        found: dict[str, int] = {}
        for row in store.rows(replies, latest):
            if row["kind"] == "train" and row["status"] == "ok":
                found[row["institution"]] = found.get(row["institution"], 0) + 1
        assert len(store.rows(rounds, latest)) == store.agreement(latest).rounds.count
        return found


def test_a_third_institution_joins_by_approval_alone(
    tmp_path: Path,
    home: ServerHome,
    federation: Federation,
    site: Callable[..., Path],
    started: Callable[..., Process],
) -> None:
    hospital, bank = site("hospital", federation), site("bank", federation, approve="additions")
    daemons = [started("client", "up", file) for file in (hospital, bank)]
    for daemon in daemons:
        daemon.wait_for("is ready")
    run("server", "run", home.root)
    assert took_part(home) == {"hospital": 1, "bank": 1}

    values = federation.model_dump(mode="json", exclude_none=True)
    values["rounds"] |= {"institutions": ["hospital", "bank", "clinic"], "count": 2}
    (file := tmp_path / "next.toml").write_text("# agreed in May\n" + tomli_w.dumps(values), encoding="utf-8")
    digest = load_federation(file).digest
    assert "institution 'clinic' joins" in collegium("server", "propose", file, "--home", home.root)
    daemons[0].wait_for(f"The coordinator offers another agreement, {digest}: read it by", 60)
    daemons[1].wait_for("which only adds institutions or rounds: approved", 60)
    following = started("server", "run", home.root)
    following.wait_for("hospital, clinic not yet", 60)

    report = collegium("client", "agreement", hospital)
    assert "rounds 1 -> 2" in report
    assert "institution 'clinic' joins" in report
    assert "Expected the digest" in collegium("client", "approve", digest[:16], "--institution", hospital, code=1)
    assert "The coordinator knows." in collegium("client", "approve", digest, "--institution", hospital)
    clinic = site("clinic", load_federation(file))
    started("client", "up", clinic).wait_for("is ready")
    assert following.process.wait(timeout=300) == 0, "it begins once all have approved"
    assert took_part(home) == {"hospital": 2, "bank": 2, "clinic": 2}
    assert home.federation_file.read_text().startswith("# agreed in May")
    for folder in (hospital.parent, bank.parent):
        assert load_federation(folder / "federation.toml").digest == digest
        assert not (folder / "federation.next.toml").exists()
    assert "Nothing else is offered." in collegium("client", "agreement", hospital)

    assert "rounds 2 -> 3" in collegium("server", "extend", home.root, "--rounds", "1")
    assert "has completed" in run("server", "resume", home.root, code=1)
    daemons[1].wait_for("rounds: approved (policy.approve).", 60)
    for file in (hospital, clinic):
        offered = json.loads(collegium("client", "agreement", file, "--json"))["offered"]
        collegium("client", "approve", offered, "--institution", file)

    deadline = time.monotonic() + 60
    while "approved: hospital, bank, clinic" not in (said := collegium("server", "status", home.root)):
        assert time.monotonic() < deadline, said
        time.sleep(0.5)
    assert "rounds 2 -> 3" in run("server", "resume", home.root)
    assert took_part(home) == {"hospital": 3, "bank": 3, "clinic": 3}
