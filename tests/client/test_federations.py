"""An institution in several federations: one file, one daemon, one ledger, one request at a time."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from flwr.app import Context, RecordDict

from client import app
from client.institution import federations_of, load_institution
from client.keys import generate_node_key
from client.opening import open_site
from client.privacy import chain
from client.privacy.account import ledger_file
from client.privacy.report import examine_ledger
from client.service import daemon
from server.enrolment.keys import read_public_key
from server.home import ServerHome, init_home
from server.opening import open_store
from server.runs.steering import follow, start
from server.service.operator import OperatorClient
from server.store import spending
from shared.errors import BudgetError, ConfigError
from shared.federation import Federation, federation_toml
from simulations.demo import free_ports

PRIVATE = {
    "privacy": {"epsilon": 3.0, "sampling_rate": 0.5},
    "training": {"weight_decay": 0.0, "head_dropout": 0.0},
    "rounds": {"weighting": "equal", "method": "ffa", "count": 1},
}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, tiny_federation: Callable[..., Federation], write_records: Callable[..., Path]) -> Write:
    """Makes a hospital's folder with two federations, north and south, under these tables of its own."""

    def make(north: dict[str, Any] | None = None, south: dict[str, Any] | None = None, **values: Any) -> Path:
        write_records(tmp_path / "clauses.jsonl", "clauses")
        generate_node_key(tmp_path / "node.key")
        for number, name in enumerate(("north", "south")):
            federation = tiny_federation(("hospital",), seed=number, name=name, **PRIVATE)
            (tmp_path / f"{name}.toml").write_text(federation_toml(federation), encoding="utf-8")
        content = {
            "name": "hospital",
            "data": {"clauses": {"train": "clauses.jsonl", "validation": "clauses.jsonl"}},
            "policy": {"max_epsilon": 3.5},
            "federation": {
                "north": {"file": "north.toml", "server": {"address": "north.example:8443"}} | (north or {}),
                "south": {"file": "south.toml", "server": {"address": "south.example:8443"}} | (south or {}),
            },
        }
        (file := tmp_path / "institution.toml").write_text(tomli_w.dumps(content | values), encoding="utf-8")
        return file

    return make


def of(file: Path, name: str) -> Path:
    return file.with_name(f"{file.name}#{name}")


def test_each_federation_has_its_own_and_they_share_the_rest(write: Write) -> None:
    file = write(south={"policy": {"require_dp": True}, "identity": {"key": "south.key"}})
    assert federations_of(file) == ["north", "south"]
    assert federations_of(of(file, "north")) == [], "one alone, as `collegium client up institution.toml#north` has it"
    north, south = (load_institution(of(file, name)) for name in ("north", "south"))
    folder = file.parent
    assert (north.federation, south.federation) == (folder / "north.toml", folder / "south.toml")
    assert (north.server.address, south.server.address) == ("north.example:8443", "south.example:8443")
    assert (north.identity.key, south.identity.key) == (folder / "node.key", folder / "south.key")
    assert (north.policy.max_epsilon, south.policy.max_epsilon) == (3.5, None), "a table stands in the other's place"
    assert (north.runtime.state, south.runtime.state) == (folder / "state" / "north", folder / "state" / "south")
    assert ledger_file(north) == ledger_file(south) == folder / "state" / "ledger.sqlite"
    assert north.data == south.data


def test_tasks_are_chosen(write: Write) -> None:
    file = write(north={"tasks": ["clauses"]}, south={"tasks": ["causes"]})
    assert list(load_institution(of(file, "north")).data) == ["clauses"]
    with pytest.raises(ConfigError, match=r"federation\.south\.tasks names \['causes'\]"):
        load_institution(of(file, "south"))


def test_a_federation_must_be_named_and_known(write: Write, tmp_path: Path) -> None:
    file = write()
    with pytest.raises(ConfigError, match=r"\['north', 'south'\], but none is named; .* institution\.toml#north"):
        load_institution(file)
    with pytest.raises(ConfigError, match=r"but 'east' is named"):
        load_institution(of(file, "east"))
    for table in ({"fil": "x"}, {"file": "x", "data": {}}):
        with pytest.raises(ConfigError, match=r"federation\.north"):
            load_institution(of(write_as(file, north=table), "north"))
    with pytest.raises(ConfigError, match=r"federation\.\.\."):
        load_institution(of(write_as(file, **{"..": {"file": "x"}}), ".."))
    (single := tmp_path / "one.toml").write_text('name = "hospital"\n[data.c]\ntrain = "c.jsonl"\n')
    assert federations_of(single) == []
    with pytest.raises(ConfigError, match=r"none, but `federation` as a path"):
        load_institution(of(single, "north"))


def write_as(file: Path, **tables: dict[str, Any]) -> Path:
    content = {"name": "hospital", "data": {"c": {"train": "c.jsonl"}}, "federation": tables}
    (other := file.with_name("other.toml")).write_text(tomli_w.dumps(content), encoding="utf-8")
    return other


def test_the_second_federation_is_refused_before_any_step(write: Write) -> None:
    file = write()
    north, south = (open_site(of(file, name)).account for name in ("north", "south"))
    assert north
    assert south
    with north.spend(round=1):
        pass
    steps = 0
    refused = pytest.raises(BudgetError, match=r"budget is epsilon 3\.5 .* of which [23]\.\d+ is spent")
    with refused, south.spend(round=1):
        steps += 1
    assert steps == 0


def die_training(file: Path) -> None:
    """Be killed in the middle of a training."""
    with open_site(file).account.spend(round=1):  # type: ignore[union-attr]
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_training_of_one_reserved_counts_for_the_other(
    write: Write, in_a_fork: Callable[..., Any]
) -> None:
    file = write()
    assert in_a_fork(die_training, of(file, "north")).returncode == -signal.SIGKILL
    south = open_site(of(file, "south")).account
    assert south
    with pytest.raises(BudgetError, match=r"budget is epsilon 3\.5"), south.spend(round=1):
        pass


def test_requests_of_all_federations_take_turns(write: Write) -> None:
    file, seen, inside = write(), [], 0

    def work(name: str) -> None:
        nonlocal inside
        context = Context(
            run_id=1, node_id=1, node_config={"institution": str(of(file, name))}, state=RecordDict(), run_config={}
        )
        for _ in range(5):
            with app.turn(context):
                inside += 1
                seen.append(inside)
                time.sleep(0.01)
                inside -= 1

    threads = [threading.Thread(target=work, args=(name,)) for name in ("north", "south")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 10


def test_the_daemon_serves_all_and_one_failure_ends_one(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file, stop = write(), threading.Event()
    told: list[str] = []
    served: list[str] = []

    def serve_one(
        path: Path, *, stop: threading.Event, announce: Callable[[str], None], once: float | None = None
    ) -> None:
        assert once == 60.0, "each of them"
        served.append(path.name)
        if path.name.endswith("north"):
            raise ConfigError("no")
        announce("ready")
        stop.wait(10)

    monkeypatch.setattr(daemon, "serve_one", serve_one)
    threading.Timer(0.5, stop.set).start()
    daemon.serve(file, stop=stop, announce=told.append, once=60.0)
    assert sorted(served) == ["institution.toml#north", "institution.toml#south"]
    assert sorted(told) == ["north: error: no", "south: ready"]
    monkeypatch.setattr(daemon, "serve_one", lambda *_, **__: (_ for _ in ()).throw(ConfigError("no")))
    with pytest.raises(ConfigError, match="no"):
        daemon.serve(file, stop=threading.Event(), announce=told.append)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_daemon_answers_two_coordinators_in_turn_and_both_pay_from_one_ledger(
    tmp_path: Path,
    write: Write,
    coordinating: Callable[[ServerHome], AbstractContextManager[None]],
) -> None:
    homes, servers = {}, {}
    for name in ("north", "south"):
        public, operator = free_ports(2)
        homes[name] = init_home(
            tmp_path / f"{name}-home", hosts=["localhost"], public_port=public, operator_port=operator
        )
        servers[name] = {"server": {"address": f"localhost:{public}", "ca": str(homes[name].ca_certificate)}}
    generate_node_key(tmp_path / "south.key")
    south = servers["south"] | {"identity": {"key": "south.key"}}
    file = write(north=servers["north"], south=south, policy={"max_epsilon": 8.0})
    for name, home in homes.items():
        home.federation_file.write_bytes((tmp_path / f"{name}.toml").read_bytes())
    command = [sys.executable, "-m", "collegium", "client", "up", str(file)]
    with coordinating(homes["north"]), coordinating(homes["south"]), subprocess.Popen(command) as daemon_process:
        try:
            for name, key in (("north", "node.pub"), ("south", "south.pub")):
                with OperatorClient(homes[name]) as known:
                    known.register_node("hospital", read_public_key(tmp_path / key))
            runs = {name: start(home.root).run_id for name, home in homes.items()}
            for name, run in runs.items():
                assert follow(homes[name].root, run, print, seen=0)["status"] == "completed"
        finally:
            daemon_process.terminate()
            daemon_process.wait(20)
    with chain.transaction(tmp_path / "state" / "ledger.sqlite", write=False) as found:
        kinds = [entry.kind for entry in found.entries if entry.kind in ("reserve", "commit")]
    assert kinds == ["reserve", "commit"] * 2, "a training of one is settled before one of the other begins"
    spent = {}
    for name, home in homes.items():
        report = examine_ledger(of(file, name), verify=True)
        assert len(report.datasets) == 1
        with open_store(home.root) as store:
            (row,) = store.rows(spending, runs[name])
            spent[name] = row["epsilon"]
    first, second = sorted(spent.values())
    assert first == pytest.approx(3.0, abs=0.1)
    assert 3.5 < second < 6.0, "of both together, which is less than the sum of both"
