"""An agreement that changes in a deployment that runs, without a restart of any daemon.

Who is taken off it gets not a byte of the next run; what else is changed is offered, approved and in force.
"""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from typer.testing import CliRunner

from client.keys import generate_node_key
from collegium.__main__ import app
from server.enrolment.keys import read_public_key
from server.home import ServerHome, init_home
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


@dataclass
class Deployed:
    """Daemons of a coordinator, a hospital and a bank, with a tap on the wires of both."""

    folder: Path
    home: ServerHome
    federation: Federation
    make_site: Callable[..., Path]
    start: Callable[..., Process]
    taps: dict[str, Any]
    files: dict[str, Path] = field(default_factory=dict)
    daemons: dict[str, Process] = field(default_factory=dict)


@pytest.fixture(scope="module")
def deployed(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_federation: Callable[..., Federation],
    write_records: Callable[..., Path],
    make_tap: Callable[[ServerHome], Any],
) -> Iterator[Deployed]:
    """Both institutions, connected; all ends with the module."""
    folder, taps = tmp_path_factory.mktemp("agreement"), dict[str, Any]()
    federation = tiny_federation(("hospital", "bank"), rounds={"count": 1, "quorum": 1, "grace_seconds": 20.0})
    public, operator = free_ports(2)
    home = init_home(folder / "home", hosts=["localhost", "127.0.0.1"], public_port=public, operator_port=operator)
    home.federation_file.write_text(federation_toml(federation), encoding="utf-8")

    def make_site(name: str, federation: Federation, **policy: Any) -> Path:
        """Makes an institution's folder and enrols its key; returns its institution.toml."""
        place, taps[name] = folder / name, make_tap(home)
        write_records(place / "clauses.jsonl", "clauses")
        generate_node_key(place / "node.key")
        (place / "federation.toml").write_text(federation_toml(federation), encoding="utf-8")
        (place / "ca.crt").write_bytes(home.ca_certificate.read_bytes())
        values = {
            "name": name,
            "server": {"address": f"127.0.0.1:{taps[name].port}"},
            "data": {"clauses": {"train": "clauses.jsonl"}},
            "policy": policy,
        }
        (file := place / "institution.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
        with OperatorClient(home) as client:
            client.register_node(name, read_public_key(place / "node.pub"))
        return file

    with contextlib.ExitStack() as stack:

        def start(*arguments: str | Path) -> Process:
            process = Process(folder / f"{len(list(folder.glob('*.log')))}.log", *arguments)
            stack.callback(process.stop)
            return process

        start("server", "up", home.root).wait_for("is up")
        made = Deployed(folder, home, federation, make_site, start, taps)
        for name, policy in {"hospital": {}, "bank": {"approve": "additions"}}.items():
            made.files[name] = make_site(name, federation, **policy)
            made.daemons[name] = start("client", "up", made.files[name])
        for daemon in made.daemons.values():
            daemon.wait_for("is ready")
        yield made
    for tap in taps.values():
        tap.stop()


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


IDLE_SECONDS = 40.0
"""Longer than a question is held, and than heartbeats are apart."""


def messages(stream: bytes) -> Iterator[tuple[bytes, Mapping[bytes, bytes], bytes]]:
    """First line, headers and body of each message that is there whole."""
    while b"\r\n\r\n" in stream:
        head, _, rest = stream.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
        length = int(headers[b"content-length"])
        if len(rest) < length:
            return
        yield first, headers, rest[:length]
        stream = rest[length:]


class Wire:
    """What a tap has heard, from some moment on."""

    def __init__(self, tap: Any) -> None:
        self._tap = tap
        self._before: list[tuple[int, int]] = []

    def forget(self) -> None:
        """Begin anew."""
        self._before = [(len(up), len(down)) for up, down in zip(self._tap.sent, self._tap.received, strict=True)]

    def connections(self) -> list[tuple[bytes, bytes]]:
        """Bytes to and from the coordinator. An answer to what was asked before comes first."""
        before = [*self._before, *[(0, 0)] * (len(self._tap.sent) - len(self._before))]
        pairs = zip(self._tap.sent, self._tap.received, before, strict=True)
        return [(bytes(up[a:]), bytes(down[b:])) for up, down, (a, b) in pairs]

    def asked(self) -> set[bytes]:
        """First lines of requests."""
        return {first for up, _ in self.connections() for first, _, _ in messages(up)}

    def answered(self) -> set[tuple[bytes, frozenset[tuple[bytes, bytes]], bytes]]:
        """First lines, headers but for the date, and bodies of answers."""
        return {
            (first, frozenset(headers.items() - {(b"date", headers[b"date"])}), body)
            for _, down in self.connections()
            for first, headers, body in messages(down)
        }

    def everything(self) -> bytes:
        return b"".join(up + down for up, down in self.connections())


def test_whom_a_run_does_not_name_gets_not_a_byte_of_it(deployed: Deployed) -> None:
    bank, hospital = Wire(deployed.taps["bank"]), Wire(deployed.taps["hospital"])
    with taken_off(deployed) as without:
        wait_for_idleness(bank)
        bank.forget()
        time.sleep(IDLE_SECONDS)
        idle = bank.asked(), bank.answered()
        bank.forget()
        hospital.forget()
        run("server", "run", deployed.home.root)
        wait_for_question(bank)  # its last one may be held since before the run, which is short
        meanwhile, heard = (bank.asked(), bank.answered()), bank.everything()
        told = hospital.everything()
    assert took_part(deployed.home) == {"hospital": 2}
    with open_store(deployed.home.root) as store:
        latest = store.run()
        assert store.agreement(str(latest["run"])).digest == without.digest
    assert meanwhile[0] <= idle[0], "it asked nothing else"
    assert meanwhile[1] <= idle[1], "and got the same answers, to the byte"
    words = [str(latest["run"]), str(latest["flower_run"]), without.digest, "hospital", "clauses", *without.tasks]
    assert [word for word in words if word.encode() in heard] == []
    assert int(latest["flower_run"]).to_bytes(8, "little") not in heard
    assert {str(latest["run"]), without.digest, "clauses"} <= {word for word in words if word.encode() in told}
    assert len(heard) < len(told) / 10


@contextlib.contextmanager
def taken_off(deployed: Deployed) -> Iterator[Federation]:
    """The agreement changed by hand, at the coordinator and the hospital: the bank is not in it for a while."""
    rounds = deployed.federation.rounds.model_copy(update={"institutions": ("hospital",), "quorum": 1, "count": 2})
    without = deployed.federation.model_copy(update={"rounds": rounds})
    files = deployed.home.federation_file, deployed.files["hospital"].parent / "federation.toml"
    before = files[0].read_text(encoding="utf-8")
    for file in files:
        file.write_text(federation_toml(without), encoding="utf-8")
    yield without
    for file in files:
        file.write_text(before, encoding="utf-8")


def wait_for_idleness(wire: Wire) -> None:
    """Until the daemon is connected and has said its word on agreements."""
    wait_for_question(wire)
    time.sleep(15)


def wait_for_question(wire: Wire) -> None:
    """Until the daemon asks whether there is a message for it."""
    end = time.monotonic() + 120
    while not any(b"pull-messages" in line for line in wire.asked()):
        assert time.monotonic() < end, "the institution asks nothing"
        time.sleep(0.2)


def test_a_third_institution_joins_by_approval_alone(tmp_path: Path, deployed: Deployed) -> None:
    home, federation, daemons = deployed.home, deployed.federation, deployed.daemons
    hospital, bank = deployed.files["hospital"], deployed.files["bank"]
    run("server", "run", home.root)
    assert took_part(home) == {"hospital": 1, "bank": 1}

    values = federation.model_dump(mode="json", exclude_none=True)
    values["rounds"] |= {"institutions": ["hospital", "bank", "clinic"], "count": 2}
    (file := tmp_path / "next.toml").write_text("# agreed in May\n" + tomli_w.dumps(values), encoding="utf-8")
    digest = load_federation(file).digest
    assert "institution 'clinic' joins" in collegium("server", "propose", file, "--home", home.root)
    daemons["hospital"].wait_for(f"The coordinator offers another agreement, {digest}: read it by", 60)
    daemons["bank"].wait_for("which only adds institutions or rounds: approved", 60)
    following = deployed.start("server", "run", home.root)
    following.wait_for("hospital, clinic not yet", 60)

    report = collegium("client", "agreement", hospital)
    assert "rounds 1 -> 2" in report
    assert "institution 'clinic' joins" in report
    assert "Expected the digest" in collegium("client", "approve", digest[:16], "--institution", hospital, code=1)
    assert "The coordinator knows." in collegium("client", "approve", digest, "--institution", hospital)
    clinic = deployed.make_site("clinic", load_federation(file))
    deployed.start("client", "up", clinic).wait_for("is ready")
    assert following.process.wait(timeout=300) == 0, "it begins once all have approved"
    assert took_part(home) == {"hospital": 2, "bank": 2, "clinic": 2}
    assert home.federation_file.read_text().startswith("# agreed in May")
    for folder in (hospital.parent, bank.parent):
        assert load_federation(folder / "federation.toml").digest == digest
        assert not (folder / "federation.next.toml").exists()
    assert "Nothing else is offered." in collegium("client", "agreement", hospital)

    assert "rounds 2 -> 3" in collegium("server", "extend", home.root, "--rounds", "1")
    assert "has completed" in run("server", "resume", home.root, code=1)
    daemons["bank"].wait_for("rounds: approved (policy.approve).", 60)
    for file in (hospital, clinic):
        offered = json.loads(collegium("client", "agreement", file, "--json"))["offered"]
        collegium("client", "approve", offered, "--institution", file)

    deadline = time.monotonic() + 60
    while "approved: hospital, bank, clinic" not in (said := collegium("server", "status", home.root)):
        assert time.monotonic() < deadline, said
        time.sleep(0.5)
    assert "rounds 2 -> 3" in run("server", "resume", home.root)
    assert took_part(home) == {"hospital": 3, "bank": 3, "clinic": 3}
