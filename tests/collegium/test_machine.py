"""What the machine refuses is one sentence and exit code 1, whatever verb meets it on whatever path."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from client.keys import generate_node_key
from client.leaving.gate import describe
from client.leaving.receipts import Receipts
from client.privacy.ledger import Ledger
from client.round.personal import keep_model
from server.home import init_home
from server.opening import open_store
from shared.adapter import get_state
from shared.bundle import write_bundle
from shared.federation import Federation, federation_toml
from shared.model.multitask import build_model
from shared.protocol import Refusal
from simulations.demo import free_ports

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
WITHOUT_RIGHTS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
"""Root may read and write everything; not so without these."""
if WITHOUT_RIGHTS and shutil.which("setpriv") is None:
    pytest.skip("root, and no setpriv", allow_module_level=True)


class Verbs:
    """Runs commands in a folder, quickly."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [*WITHOUT_RIGHTS, sys.executable, str(Path(__file__).with_name("verbs.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def run(self, *words: str, **environment: str) -> tuple[int, str]:
        """Exit code, and what was printed."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([environment, words]) + "\n")
        self.process.stdin.flush()
        code, printed = json.loads(self.process.stdout.readline())
        return code, printed


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_federation: Callable[..., Federation],
    write_records: Callable[..., Path],
) -> Path:
    """A coordinator `home`, an institution with state, a `bundle`, and an experiment, in one folder."""
    folder = tmp_path_factory.mktemp("world")
    federation = tiny_federation(institutions=("hospital",), rounds={"count": 1})
    public, operator = free_ports(2)
    home = init_home(folder / "home", hosts=["localhost"], public_port=public, operator_port=operator)
    (folder / "federation.toml").write_text(federation_toml(federation), encoding="utf-8")
    shutil.copy(folder / "federation.toml", home.federation_file)
    open_store(home.root).__exit__()
    shutil.copy(home.ca_certificate, folder / "ca.crt")
    generate_node_key(folder / "node.key")
    parts = {"train": slice(0, 20), "validation": slice(20, 22), "test": slice(22, 24)}
    data = {split: write_records(folder / f"{split}.jsonl", "clauses", part).name for split, part in parts.items()}
    site: dict[str, Any] = {"name": "hospital", "data": {"clauses": data}, "server": {"address": f"localhost:{public}"}}
    (folder / "institution.toml").write_text(tomli_w.dumps(site), encoding="utf-8")
    agreed = federation.model_dump(mode="json", exclude_none=True)
    experiment = {"federation": agreed, "institutions": {"hospital": {"clauses": data}}, "baselines": []}
    (folder / "experiment.toml").write_text(tomli_w.dumps(experiment), encoding="utf-8")
    split = {"data": {"train": "members.jsonl"}, "institutions": 2, "kind": "iid", "least": 1}
    agreed["rounds"]["institutions"] = ["site-01", "site-02"]
    experiment = {"federation": agreed, "partition": {"clauses": split}, "baselines": []}
    (folder / "partition.toml").write_text(tomli_w.dumps(experiment), encoding="utf-8")
    for name, part in (("members", slice(0, 12)), ("others", slice(12, 24))):
        write_records(folder / f"{name}.jsonl", "clauses", part)
    receipts = Receipts(folder / "state", folder / "node.key")
    receipts.append(describe(Refusal(institution="hospital", kind="data", reason="no"), federation=federation))
    (folder / "state" / "logs").mkdir()
    Ledger.open(folder / "state" / "ledger.sqlite")
    model = build_model(federation)
    about = {"institution": "hospital", "run": "r", "round": 1, "scores": {}, "settings": {}}
    keep_model(folder / "state", model, federation, tasks=["clauses"], about=about)
    write_bundle(folder / "bundle", federation, get_state(model), {}, metrics={"settings": {}}, readme="")
    (folder / "closed").mkdir()
    return folder


@pytest.fixture(scope="module")
def verbs(world: Path) -> Iterator[Verbs]:
    running = Verbs(world)
    yield running
    running.process.communicate()


SITE = ("institution.toml", "federation.toml")
READS = {
    "server up home": ("home/server.toml", "home/secrets/server.key", "home/secrets", "home/state", "home/logs"),
    "server enrol hospital --public-key node.pub --home home": (
        "node.pub",
        "home/secrets/operator.token",
        "home/public/ca.crt",
        "home/server.toml",
    ),
    "server run home": ("home/server.toml", "home/secrets/operator.token", "home/state", "home/state/collegium.db"),
    "server resume home": ("home/server.toml", "home/state/collegium.db"),
    "server status home": ("home/server.toml", "home/state", "home/state/collegium.db", "home/public"),
    "server release home out": ("home/server.toml", "home/state/collegium.db"),
    "client doctor --no-forecast": (*SITE, "train.jsonl"),
    "client ledger --verify": ("institution.toml", "state/ledger.sqlite", "state/receipts.jsonl", "state"),
    "client outbox --verify": ("institution.toml", "state/receipts.jsonl", "state/receipts.head", "node.key", "state"),
    "client bundle": ("institution.toml", "state/personal.safetensors", "state"),
    "client up": (*SITE[:1], "node.key", "ca.crt", "state", "state/logs"),
    "simulate experiment.toml": ("experiment.toml", "train.jsonl"),
    "audit experiment.toml --kind text": ("experiment.toml", "train.jsonl"),
    "predict bundle --task clauses --file train.jsonl": (
        "bundle/federation.toml",
        "bundle/heads.safetensors",
        "bundle/metrics.json",
        "bundle/adapter",
        "bundle",
        "train.jsonl",
    ),
}
WRITES = (
    "server init closed/home",
    "client keygen closed/node.key",
    "client bundle --out closed/bundle",
    "simulate experiment.toml --workdir closed/work",
    "demo --workdir closed/demo",
    "audit bundle --task clauses --members members.jsonl --others others.jsonl --out closed/audit",
)


def check(code: int, printed: str, path: str) -> None:
    assert code == 1, printed
    assert "Traceback" not in printed
    assert Path(path).name in printed
    if "Findings" not in printed:  # the doctor's table: there all stand
        errors = [line for line in printed.splitlines() if line.startswith("error: ")]
        assert errors == printed.splitlines()[-1:], printed
        assert Path(path).name in errors[0], printed


@pytest.mark.parametrize(("verb", "path"), [(verb, path) for verb, paths in READS.items() for path in paths])
def test_a_path_that_may_not_be_read(verbs: Verbs, world: Path, verb: str, path: str) -> None:
    before = (world / path).stat().st_mode
    os.chmod(world / path, 0)
    try:
        code, printed = verbs.run(*verb.split())
    finally:
        os.chmod(world / path, before)
    check(code, printed, path if path != "." else "institution.toml")


@pytest.mark.parametrize("verb", WRITES)
@pytest.mark.parametrize("closed", ["without the right", "a file"])
def test_a_folder_that_may_not_be_written_to(verbs: Verbs, world: Path, verb: str, closed: str) -> None:
    folder = world / "closed"
    if closed == "a file":
        folder.rmdir()
        folder.touch()
    else:
        folder.chmod(0o500)
    try:
        code, printed = verbs.run(*verb.split())
    finally:
        if closed == "a file":
            folder.unlink()
            folder.mkdir()
        folder.chmod(0o700)
    check(code, printed, "closed")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "verb", ["methods", "tasks", "client doctor --no-forecast", "--help", "predict bundle --task clauses --text é"]
)
def test_a_terminal_of_few_characters(verbs: Verbs, verb: str) -> None:
    code, printed = verbs.run(*verb.split(), PYTHONIOENCODING="ascii")
    assert (code, "Traceback" in printed) == (0, False), printed
    assert printed.isascii()


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("verb", "lengths"),
    [
        ("server init new/home", (100, 600, 1500)),
        ("client keygen new/node.key", (100, 400)),
        ("client bundle --out new/bundle", (100, 3000)),
        ("simulate experiment.toml --workdir new/work", (100, 20_000)),
        ("simulate partition.toml --workdir new/work", (100,)),
        ("demo --workdir new/demo", (100,)),
        ("audit bundle --task clauses --members members.jsonl --others others.jsonl --out new/audit", (100, 4000)),
    ],
)
def test_a_verb_that_finds_the_disk_full_leaves_nothing_half_made(
    verbs: Verbs, world: Path, verb: str, lengths: tuple[int, ...]
) -> None:
    (world / "new").mkdir()
    before = files(world)
    try:
        for length in lengths:
            code, printed = verbs.run(*verb.split(), FSIZE=str(length))
            assert (code, "Traceback" in printed) == (1, False), printed
            assert printed.splitlines()[-1].startswith("error: "), printed
            assert files(world) == before
    finally:
        shutil.rmtree(world / "new")


@pytest.mark.parametrize(
    "verb",
    [
        "server init new --institution hospital --institution Not_A_Name",
        'server init new --name a"b',
        "server init new --backbone nowhere",
        "server init new --host not/a/host",
        "client keygen new/node.pub",
        "simulate absent.toml --workdir new",
        "simulate federation.toml --workdir new",
        "simulate experiment.toml --data bundle --workdir new",
        "simulate experiment.toml --search task-weights --method grid --trials 1 --workdir new",
        "audit federation.toml --out new",
        "audit bundle --task clauses --members absent.jsonl --others others.jsonl --out new",
    ],
)
def test_a_verb_that_is_asked_wrongly_leaves_nothing(verbs: Verbs, world: Path, verb: str) -> None:
    before = files(world)
    code, printed = verbs.run(*verb.split())
    assert (code, "Traceback" in printed) == (1, False), printed
    assert files(world) == before


def test_a_folder_that_could_not_be_made_is_made_at_the_next_try(verbs: Verbs, world: Path) -> None:
    (world / "again").mkdir()
    (world / "again" / "notes.txt").touch()
    assert verbs.run("server", "init", "again", FSIZE="600")[0] == 1
    assert verbs.run("server", "init", "again")[0] == 0
    assert {"notes.txt", "server.toml", "federation.toml", "secrets/ca.key"} < files(world / "again")
    shutil.rmtree(world / "again")


def test_a_copy_of_the_tokenizer_needs_room(verbs: Verbs) -> None:
    code, printed = verbs.run("simulate", "experiment.toml", FSIZE="300000")
    assert code == 1
    assert re.search(r"Expected room for a copy of the tokenizer in .*; make room there, .* TMPDIR", printed)
