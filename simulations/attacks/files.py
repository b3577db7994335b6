"""Another user of the machine reads folders of a coordinator and its institutions, by mode bits, and command lines."""

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

from client.keys import generate_node_key
from server.home import init_home
from shared.federation import federation_toml
from simulations.attacks import Attack, Outcome
from simulations.attacks.stage import TINY_RECORDS, tiny_federation, write_tiny_bert
from simulations.demo import deploy
from simulations.experiment import Experiment
from simulations.watching import looking

OTHERS = 0o077
HANDED_ON = frozenset({"node.pub", "release.pub", "ca.crt", "federation.toml", "institution.toml"})
"""Names of files that hold nothing private, and are given to others or written by hand."""
TASKS = {"hospital": ("clauses", "notes_qa"), "law_firm": ("clauses",), "bank": ("clauses",)}
"""Who is deployed, with which tasks."""
SECRET = re.compile(r"(--[\w-]+=)?(?!--|/)[\w+/=-]{32,}")
"""A word of a command line that nobody could guess, or an option with one; no path from the root."""
COLLEGIUM = (sys.executable, "-m", "collegium")


def open_to_others(root: Path) -> list[Path]:
    """Everything under a folder, and itself, that a mode lets others read or write, but for what is handed on."""
    return [
        path
        for path in (root, *root.rglob("*"))
        if not path.is_symlink()
        and path.name not in HANDED_ON
        and not stat.S_ISSOCK(path.stat().st_mode)
        and path.stat().st_mode & OTHERS
    ]


def read_everything(folder: Path) -> Outcome:
    """Look through a real deployment: its processes in a private run, its folders after it.

    Every file that can be read is a success, and so is every secret on a command line.
    """
    with _careless(), watching(folder / "work") as commands:
        _deploy_privately(folder)
    roots = [folder / "work" / name for name in ("coordinator", *TASKS)]
    found = [path.name for root in roots for path in open_to_others(root)]
    found += [word for words in commands for word, value in pairwise(words) if is_secret(value)]
    tried = len(commands) + sum(1 for root in roots for _ in root.rglob("*"))
    return Outcome(tried, len(found), ", ".join(sorted(set(found))[:8]))


def is_secret(word: str) -> bool:
    """Whether a word of a command line lets its reader do what others cannot."""
    return SECRET.fullmatch(word) is not None


@contextmanager
def watching(folder: Path) -> Iterator[set[tuple[str, ...]]]:
    """While the block lasts, note the command line of every process that names the folder there."""
    seen = set[tuple[str, ...]]()

    def look() -> None:
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if str(folder) in (line := entry.read_text(errors="replace")):
                    seen.add(tuple(line.split("\0")))

    with looking(look, every=0.1):
        yield seen


def _deploy_privately(folder: Path) -> None:
    """Two rounds under differential privacy and secure aggregation, by real daemons in `folder`/work."""
    (folder / "bert").mkdir()
    federation = tiny_federation(
        write_tiny_bert(folder / "bert"),
        TASKS,
        privacy={"epsilon": 4.0, "sampling_rate": 0.5},
        training={"weight_decay": 0.0},
        rounds={"weighting": "equal", "quorum": 3, "method": "fedsvd"},
        secure_aggregation={"threshold": 3},
    )
    for task, records in TINY_RECORDS.items():
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{task}.jsonl").write_text(lines, encoding="utf-8")
    data = {name: {task: {"train": str(folder / f"{task}.jsonl")} for task in tasks} for name, tasks in TASKS.items()}
    experiment = Experiment.model_validate({"federation": federation, "institutions": data})
    deploy(experiment, folder / "work", lambda line: None)


def go_on_with_an_open_key(folder: Path) -> Outcome:
    """Have keys that others can read be used all the same, so that nobody notices: at a site and at a coordinator."""
    with _careless():
        (folder / "bert").mkdir()
        key = folder / "node.key"
        generate_node_key(key)
        home = init_home(folder / "home", hosts=["localhost"], public_port=1, operator_port=2)
        home.federation_file.write_text(federation_toml(tiny_federation(write_tiny_bert(folder / "bert"))))
        (folder / "ca.crt").write_bytes(home.ca_certificate.read_bytes())
        (folder / "institution.toml").write_text(
            'name = "hospital"\nfederation = "home/federation.toml"\n[data.clauses]\ntrain = "x.jsonl"\n'
        )
        key.chmod(0o640)
        refused = [_refuses("client", "up", str(folder / "institution.toml"), secret=key)]
        key.chmod(0o600)
        for secret in (home.server_key, home.operator_token_file):
            secret.chmod(0o604)
            refused.append(_refuses("server", "run", str(home.root), secret=secret))
            secret.chmod(0o600)
    return Outcome(len(refused), refused.count(False))


def _refuses(*arguments: str, secret: Path) -> bool:
    done = subprocess.run([*COLLEGIUM, *arguments], capture_output=True, text=True, check=False, timeout=120)
    return done.returncode == 1 and f"chmod 600 {secret}" in done.stderr


@contextmanager
def _careless() -> Iterator[None]:
    """With the umask that most shells have."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


BY = "another user of the machine"
PROMISE = "what Collegium keeps is readable by its owner alone, and it does not start on a secret that is not"
ATTACKS = (
    Attack("reading databases, checkpoints, receipts, logs, keys and command lines", BY, PROMISE, read_everything),
    Attack("the use of a private key that others can read", BY, PROMISE, go_on_with_an_open_key),
)
