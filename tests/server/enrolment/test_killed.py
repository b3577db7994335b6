"""Whoever joins, or gets a new key, may be killed at any step: the same command, typed again, comes to the same end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.enrolment.succession import earlier_keys
from client.keys import read_public_key
from server.service.operator import OperatorClient
from shared.federation import load_federation
from shared.nodekeys import fingerprint, line_of
from simulations.attacks.enrolment import Coordinator, welcoming

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
MOST = 100
"""Steps of a command."""
Type = Callable[..., int]


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    with welcoming(tmp_path / "welcoming") as running:
        yield running


@pytest.fixture
def type_line(tmp_path: Path) -> Iterator[Type]:
    """Types a command that is killed at a step; its exit code, which is of nothing else."""
    command = [sys.executable, str(Path(__file__).with_name("typist.py"))]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as typist:
        assert typist.stdin
        assert typist.stdout

        def type_one(step: int, *words: str) -> int:
            assert typist.stdin
            assert typist.stdout
            print(json.dumps([str(tmp_path), step, *words]), file=typist.stdin, flush=True)
            code, said = json.loads(typist.stdout.readline())
            assert code in (0, -signal.SIGKILL), said
            return int(code)

        yield type_one
        typist.stdin.close()


def held(folder: Path) -> str:
    """Fingerprint of a site's key, both halves of which are there."""
    public = (folder / "node.pub").read_text()
    assert line_of(read_public_key(folder / "node.key")) == public.strip()
    return fingerprint(public)


def test_an_institution_that_is_killed_at_any_step_joins_once(
    coordinator: Coordinator, tmp_path: Path, type_line: Type
) -> None:
    killed = 0
    for step in range(1, MOST):
        name, folder = f"{step}.invitation", tmp_path / f"site-{step}"
        coordinator.invite("hospital", tmp_path / name)
        words = ("client", "join", name, folder.name)
        ended = type_line(step, *words) == 0
        before = coordinator.enrolled()
        if not ended:
            killed += 1
            if folder.exists():  # by the last step, which makes it whole
                assert before == {"hospital": held(folder)}
            else:
                assert type_line(0, *words) == 0
        assert coordinator.enrolled() == {"hospital": held(folder)}
        assert before in ({}, coordinator.enrolled()), "no second identity"
        assert {each.name for each in folder.iterdir()} >= {"ca.crt", "data", "institution.toml", "node.key"}
        load_federation(folder / "federation.toml")
        assert not list(tmp_path.glob(".*joining*")), "nothing half made is left"
        with OperatorClient(coordinator.home) as operator:
            operator.unregister_node(operator.nodes()[0].node_id)
        if ended:
            break
    assert MOST > killed > 10


def test_a_site_that_is_killed_at_any_step_of_a_new_key_has_one(
    coordinator: Coordinator, tmp_path: Path, type_line: Type
) -> None:
    coordinator.invite("hospital", tmp_path / "hospital.invitation")
    assert type_line(0, "client", "join", "hospital.invitation", "site") == 0
    folder, words = tmp_path / "site", ("client", "rotate-key", "site/institution.toml")
    first = (folder / "node.pub").read_text().strip()
    killed = 0
    for step in range(1, MOST):
        known = coordinator.enrolled()["hospital"]
        ended = type_line(step, *words) == 0
        if not ended:
            killed += 1
            assert type_line(0, *words) == 0
        assert coordinator.enrolled() == {"hospital": held(folder)}
        assert held(folder) != known
        assert sorted(path.name for path in folder.glob("node*")) == ["node.key", "node.pub"]
        earlier = earlier_keys(folder / "state", read_public_key(folder / "node.key"))
        assert line_of(earlier[-1]) == first, "each key has signed the next one"
        if ended:
            break
    assert MOST > killed > 10
