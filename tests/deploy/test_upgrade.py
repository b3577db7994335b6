"""A release serves the one before, and is served by it: this tree's package, beside one that pretends to be the next.

There is one release so far, so the next one is made here: this tree with the next version of the protocol, a key of the
federation file and fields of messages that this one does not know.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tomli_w

from client.keys import generate_node_key
from server.enrolment.keys import read_public_key
from server.home import ServerHome, init_home, read_settings
from server.opening import open_store
from server.runs.steering import follow, start
from server.service.operator import OperatorClient
from server.store import events, replies
from shared.errors import CollegiumError
from shared.federation import Federation, federation_toml
from shared.protocol import PROTOCOL_VERSION
from simulations.demo import free_ports

ROOT = Path(__file__).parents[2]
ROOMS = ("collegium", "shared", "server", "client")
NEXT = PROTOCOL_VERSION + 1
NO_LATER_FIELDS = "LATER: Mapping[str, frozenset[str]] = {}"
LATER_FIELDS = f'{NO_LATER_FIELDS[:-2]}{{"TrainRequest": frozenset({{"hint"}}), "QueryReply": frozenset({{"cores"}})}}'
BASE = '    base: Version = ""\n    """The version of its frozen weights, where'
LEDGER = '    ledger: Head | None = None\n    """`NUMBER:SHA-256` of the last entry of the institution'
SPOKEN = f"PROTOCOL_VERSION = {PROTOCOL_VERSION}\nSPOKEN = ({PROTOCOL_VERSION},)"
CHANGES = (
    ("shared/protocol.py", SPOKEN, f"PROTOCOL_VERSION = {NEXT}\nSPOKEN = ({PROTOCOL_VERSION}, {NEXT})"),
    ("shared/protocol.py", NO_LATER_FIELDS, LATER_FIELDS),
    ("shared/protocol.py", LEDGER, f'    hint: Version = ""\n{LEDGER}'),
    ("shared/protocol.py", BASE, f"    cores: int = 0\n{BASE}"),
    (
        "shared/federation/agreement.py",
        'LATER: tuple[str, ...] = ("release",)',
        'LATER: tuple[str, ...] = ("release", "rounds.hint")',
    ),
    ("shared/federation/rounds.py", "    late: bool = False\n", "    hint: bool = False\n    late: bool = False\n"),
)
"""What the next release changes: file, text, and what stands there then."""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where this release's wheel is installed by itself, and where the next one lies."""
    folder = tmp_path_factory.mktemp("releases")
    source = folder / "source"
    for name in (*ROOMS, "simulations"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    this, coming = folder / "this", folder / "next"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--no-deps", "--target", str(this), str(source)]
    done = subprocess.run(install, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        probe = [*pip, "download", "--quiet", "--no-deps", "--dest", str(folder / "probe"), "hatchling"]
        assert subprocess.run(probe, capture_output=True, timeout=120).returncode, done.stderr
        pytest.skip("no package index is within reach, and a wheel is built with hatchling")
    shutil.copytree(source, coming)
    for name, old, new in CHANGES:
        text = (coming / name).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{name}: {old}"
        (coming / name).write_text(text.replace(old, new), encoding="utf-8")
    return {"this": this, "next": coming}


@contextmanager
def running(package: Path, *verb: str) -> Iterator[None]:
    """A daemon of a release, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(package)}
    command = [sys.executable, "-m", "collegium", *verb]
    with subprocess.Popen(command, env=environment, cwd=package.parent) as process:
        try:
            yield
            assert process.poll() is None
        finally:
            process.terminate()
            process.wait(30)


def wait_until_up(home: ServerHome, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            with OperatorClient(home) as operator:
                operator.nodes()
            return
        except CollegiumError:
            assert time.monotonic() < end
            time.sleep(0.2)


def completed(home: ServerHome) -> tuple[list[str], set[str]]:
    """What was said in a run, started now, that must complete; and how its requests were answered."""
    run = start(home.root).run_id
    assert follow(home.root, run, print, seen=0)["status"] == "completed"
    with open_store(home.root) as store:
        answers = {row["status"] for row in store.rows(replies, run)}
        return [event["text"] for event in store.rows(events, run)], answers


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_side_may_be_one_release_ahead(
    tmp_path: Path,
    packages: dict[str, Path],
    tiny_federation: Callable[..., Federation],
    write_records: Callable[..., Path],
) -> None:
    public, operator = free_ports(2)
    home = init_home(tmp_path / "home", hosts=["localhost"], public_port=public, operator_port=operator)
    federation = tiny_federation(("hospital",), rounds={"count": 1})
    home.federation_file.write_text(federation_toml(federation), encoding="utf-8")
    (site := tmp_path / "site").mkdir()
    shutil.copy(home.federation_file, site / "federation.toml")
    shutil.copy(home.ca_certificate, site / "ca.crt")
    generate_node_key(site / "node.key")
    records = str(write_records(site / "clauses.jsonl", "clauses"))
    institution = {
        "name": "hospital",
        "server": {"address": f"localhost:{read_settings(home).public_port}"},
        "data": {"clauses": {"train": records, "validation": records}},
        "policy": {"federations": [federation.digest]},
    }
    (file := site / "institution.toml").write_text(tomli_w.dumps(institution), encoding="utf-8")
    behind = "hospital has the release before this one, and is asked as that one asks"
    with running(packages["next"], "server", "up", str(home.root)):
        wait_until_up(home)
        with OperatorClient(home) as known:
            known.register_node("hospital", read_public_key(site / "node.pub"))
        with running(packages["this"], "client", "up", str(file)):
            said, answers = completed(home)
            assert (said.count(behind), answers) == (1, {"ok"}), said
        with running(packages["next"], "client", "up", str(file)):  # the institution's turn, in the same folder
            said, answers = completed(home)
            assert (said.count(behind), answers) == (0, {"ok"}), said
    with running(packages["this"], "server", "up", str(home.root)):
        wait_until_up(home)
        with running(packages["next"], "client", "up", str(file)):
            said, answers = completed(home)
            assert (said.count(behind), answers) == (0, {"ok"}), said
