"""Every mistake a newcomer makes ends, through the real command, in one clear sentence on stderr and exit code 1."""

import contextlib
import json
import os
import pty
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tomli_w

from client.keys import generate_node_key
from collegium.__main__ import main
from server.enrolment.keys import read_public_key
from server.home import ServerHome, init_home, read_settings
from server.service.operator import OperatorClient
from shared.federation import Federation, federation_toml
from simulations.demo import free_ports

pytestmark = pytest.mark.slow
COLLEGIUM = [sys.executable, "-m", "collegium"]


Complaint = Callable[..., str]


@pytest.fixture
def complaint(in_a_fork: Callable[..., "subprocess.CompletedProcess[str]"]) -> Complaint:
    """Gives the one sentence that a command ends with; its exit code must be 1 and nothing may be on stdout."""

    def typed(argv: list[str], limit_file_bytes: int | None) -> None:
        if limit_file_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_file_bytes, limit_file_bytes))
        sys.argv = ["collegium", *argv]
        main()

    def complain(*argv: str | Path, limit_file_bytes: int | None = None) -> str:
        done = in_a_fork(typed, [*map(str, argv)], limit_file_bytes)
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        assert "Traceback" not in done.stderr
        lines = done.stderr.strip().splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
        return lines[-1].removeprefix("error: ")

    return complain


@pytest.fixture(scope="module")
def federation(tiny_federation: Callable[..., Federation]) -> Federation:
    """A big adapter, so that a checkpoint needs more room than a database."""
    return tiny_federation(adapter={"rank": 256, "alpha": 8.0})


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory, federation: Federation) -> Iterator[ServerHome]:
    """A coordinator that is up."""
    public, operator = free_ports(2)
    home = init_home(
        tmp_path_factory.mktemp("coordinator") / "home",
        hosts=["127.0.0.1"],
        public_port=public,
        operator_port=operator,
    )
    home.federation_file.write_text(federation_toml(federation), encoding="utf-8")
    with subprocess.Popen([*COLLEGIUM, "server", "up", str(home.root)], stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr
        for line in daemon.stderr:
            if "is up" in line:
                break
        yield home
        daemon.terminate()
        daemon.stderr.read()
        assert daemon.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory, coordinator: ServerHome) -> Path:
    """The hospital's enrolled key."""
    key = tmp_path_factory.mktemp("key") / "node.key"
    generate_node_key(key)
    with OperatorClient(coordinator) as operator:
        operator.register_node("hospital", read_public_key(key.with_suffix(".pub")))
    return key


@pytest.fixture
def institution(
    tmp_path: Path, federation: Federation, coordinator: ServerHome, key: Path, write_records: Callable[..., Path]
) -> Path:
    """A hospital's folder in which nothing is wrong."""
    folder = tmp_path / "hospital"
    write_records(folder / "clauses.jsonl", "clauses")
    for file in (key, key.with_suffix(".pub")):
        shutil.copy2(file, folder / file.name)
    (folder / "federation.toml").write_text(federation_toml(federation), encoding="utf-8")
    (folder / "ca.crt").write_bytes(coordinator.ca_certificate.read_bytes())
    write_institution(folder, coordinator)
    return folder


def write_institution(folder: Path, coordinator: ServerHome) -> None:
    values = {
        "name": "hospital",
        "server": {"address": f"127.0.0.1:{read_settings(coordinator).public_port}"},
        "data": {"clauses": {"train": "clauses.jsonl"}},
    }
    (folder / "institution.toml").write_text(tomli_w.dumps(values), encoding="utf-8")


def at_a_terminal(folder: Path) -> str:
    """What stands on the terminal of somebody who types it, in one line; a record is quoted there, and in no log."""
    mine, its = pty.openpty()
    command = [*COLLEGIUM, "client", "up", str(folder / "institution.toml")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=its, check=False, timeout=120)
    os.close(its)
    said = b""
    with contextlib.suppress(OSError):  # which is how a terminal ends
        while part := os.read(mine, 65536):
            said += part
    os.close(mine)
    assert (done.returncode, done.stdout) == (1, b"")
    return " ".join(said.decode().split())


@contextlib.contextmanager
def waiting(folder: Path) -> Iterator[Callable[[str], str]]:
    """A daemon that goes on waiting; gives the next line with these words, and is ended with the block."""
    command = [*COLLEGIUM, "client", "up", str(folder / "institution.toml")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
        lines = daemon.stderr
        assert lines
        yield lambda words: next((line for line in lines if words in line), "")
        assert daemon.poll() is None, "it tries again, for ever"
        daemon.terminate()
        lines.read()
        assert daemon.wait(timeout=60) == 0


@pytest.mark.parametrize("door", ["public_port", "operator_port"])
def test_port_in_use(complaint: Complaint, tmp_path: Path, federation: Federation, door: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = dict(zip(("public_port", "operator_port"), free_ports(2), strict=True)) | {door: port}
        home = init_home(tmp_path / "home", hosts=["127.0.0.1"], **ports)
        home.federation_file.write_text(federation_toml(federation), encoding="utf-8")
        assert str(port) in (sentence := complaint("server", "up", home.root))
        assert "in use" in sentence


def test_wrong_ca_and_a_key_that_is_not_enrolled(tmp_path: Path, institution: Path) -> None:
    other = init_home(tmp_path / "other", hosts=["127.0.0.1"], public_port=1, operator_port=2)
    right = (institution / "ca.crt").read_bytes()
    (institution / "ca.crt").write_bytes(other.ca_certificate.read_bytes())
    for file in (institution / "node.key", institution / "node.pub"):
        file.unlink()
    generate_node_key(institution / "node.key")
    with waiting(institution) as says:
        assert re.search(r"certificate that .*ca\.crt", says("vouches for"))
        (institution / "ca.crt").write_bytes(right)
        unknown = r"does not know the key .*node\.key: it is not enrolled.* Send it .*node\.pub; trying again"
        assert re.search(unknown, says("not enrolled"))


def test_backbone_digest_differs(complaint: Complaint, institution: Path, federation: Federation) -> None:
    file = institution / "federation.toml"
    file.write_text(file.read_text().replace(federation.backbone.sha256, "0" * 64))
    assert re.search(
        r"000000000000.*" + federation.backbone.sha256[:12], complaint("client", "up", institution / "institution.toml")
    )


def test_unknown_labels_unknown_tasks_and_empty_files_are_named_together(institution: Path) -> None:
    with (institution / "clauses.jsonl").open("a", encoding="utf-8") as records:
        records.write(json.dumps({"text": "Ends in May.", "label": "termination"}) + "\n")
    (institution / "entities.jsonl").write_text("")
    with (institution / "institution.toml").open("a", encoding="utf-8") as file:
        file.write('[data.entities]\ntrain = "entities.jsonl"\n[data.causes]\ntrain = "clauses.jsonl"\n')
    said = at_a_terminal(institution)
    assert re.search(r"clauses\.jsonl .*line 25: label 'termination' is not among .*payment", said)
    assert re.search(r"records of task entities in .*entities\.jsonl, but the file is empty", said)
    assert re.search(r"it has no task 'causes'; .*'clauses'", said)


def test_several_mistakes_in_a_file_are_named_together(complaint: Complaint, institution: Path) -> None:
    file = institution / "institution.toml"
    file.write_text('nam = "hospital"\n' + file.read_text().replace("clauses.jsonl", "clauses.docx"))
    sentence = complaint("client", "up", file)
    assert all(words in sentence for words in ("nam is not a known key", "clauses.docx")), sentence


def test_coordinator_not_up(complaint: Complaint, tmp_path: Path, federation: Federation) -> None:
    public, operator = free_ports(2)
    home = init_home(tmp_path / "home", hosts=["127.0.0.1"], public_port=public, operator_port=operator)
    home.federation_file.write_text(federation_toml(federation), encoding="utf-8")
    assert "collegium server up" in complaint("server", "run", home.root)


@pytest.fixture
def experiment(tmp_path: Path, federation: Federation, write_records: Callable[..., Path]) -> Path:
    """The file of an experiment with one institution."""
    write_records(tmp_path / "clauses.jsonl", "clauses")
    agreement = federation.model_dump(mode="json", exclude_none=True)
    agreement["rounds"] |= {"institutions": ["hospital"], "quorum": 1}
    values = {"federation": agreement, "institutions": {"hospital": {"clauses": {"train": "clauses.jsonl"}}}}
    (file := tmp_path / "experiment.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
    return file


def test_disk_full_on_checkpoint(complaint: Complaint, tmp_path: Path, experiment: Path) -> None:
    workdir = tmp_path / "work"
    sentence = complaint("simulate", experiment, "--workdir", workdir, limit_file_bytes=800_000)
    assert re.search(r"Could not write a checkpoint.*; what was stored before is intact", sentence)
    assert not list((workdir / "checkpoints").rglob("*.safetensors"))
