"""What SuperExec starts for a run: one process, which is told its token where nobody else reads it."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.service import superexec
from server.service.superexec import Launcher
from shared.flower.constants import TaskType
from shared.flower.runtime import ExecutionSpec, LaunchResult

TOKEN = "0123456789abcdef" * 16
SPEC = ExecutionSpec(
    task_type=TaskType.SERVER_APP,
    runtime_api_address="127.0.0.1:8444",
    token=TOKEN,
    insecure=False,
    root_certificates_path="/home/ca.crt",
    runtime_dependency_install=False,
    parent_pid=7,
    suppress_output=False,
    task_id=1,
)
TELLS = """
import json, os, pathlib, sys
told = {"argv": sys.argv, "stdin": sys.stdin.read(), "environment": dict(os.environ)}
pathlib.Path(sys.argv[1]).write_text(json.dumps(told))
"""


def wait_for_the_end(launcher: Launcher, result: LaunchResult) -> None:
    """Of the one process that was started."""
    assert result.status == "accepted"
    end = time.monotonic() + 30
    while launcher.started:
        launcher.reconcile()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_token_comes_by_standard_input_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "told.json"

    def command(module: str, *arguments: str) -> list[str]:
        return [sys.executable, "-c", TELLS, str(file), module, *arguments]

    monkeypatch.setattr(superexec, "command", command)
    wait_for_the_end(launcher := Launcher(), launcher.launch(SPEC))
    told = json.loads(file.read_text())
    assert told["stdin"] == f"{TOKEN}\n"
    assert told["argv"][2:] == [
        "server.service.serverapp",
        *("--runtime-api-address", "127.0.0.1:8444", "--token-stdin"),
        *("--root-certificates", "/home/ca.crt", "--parent-pid", "7"),
    ]
    assert TOKEN not in str(told["environment"])


def test_nothing_else_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(subprocess, "Popen")
    for spec in (replace(SPEC, task_type=TaskType.CLIENT_APP), replace(SPEC, root_certificates_path=None)):
        assert Launcher().launch(spec).status == "failed"


def test_a_process_that_is_dead_already_is_left_to_the_superlink(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dead(subprocess.Popen[str]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.wait()

    monkeypatch.setattr(superexec, "command", lambda *_: [sys.executable, "-c", ""])
    monkeypatch.setattr(subprocess, "Popen", Dead)
    wait_for_the_end(launcher := Launcher(), launcher.launch(SPEC))


def test_it_loads_neither_databases_nor_torch() -> None:
    heavy = "('torch', 'sqlalchemy', 'alembic')"
    code = f"import sys, server.service.superexec; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
