import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import ProcessError
from shared.process.flower import flower_command, flower_environment


def test_flower_stays_quiet_and_within_its_folder(tmp_path: Path) -> None:
    environment = flower_environment(tmp_path)
    assert environment["FLWR_HOME"] == str(tmp_path.resolve())
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert environment["FLWR_INTERNAL_GRPC_CONTROL_API"] == environment["FLWR_INTERNAL_GRPC_FLEET_API"] == "0"


def test_flower_itself_understands_the_environment(tmp_path: Path) -> None:
    asks = (
        "from flwr.supercore import telemetry, utils\n"
        "from flwr.supercore.superexec import run_superexec\n"
        "print(telemetry.FLWR_TELEMETRY_ENABLED, utils.get_flwr_home(), run_superexec._get_task_poll_interval())\n"
        "import shutil, shared.process.flower\n"
        "print(shutil.which('flwr-serverapp'), shared.process.flower.__file__)"
    )
    environment = {**os.environ, **flower_environment(tmp_path)}
    printed = subprocess.run(
        [sys.executable, "-P", "-c", asks], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    module = sys.modules["shared.process.flower"].__file__
    assert printed == ["0", str(tmp_path.resolve()), "0.1", flower_command("flwr-serverapp"), module]


def test_children_import_this_checkout_whatever_else_is_installed(tmp_path: Path) -> None:
    first = flower_environment(tmp_path)["PYTHONPATH"].split(os.pathsep)[0]
    assert Path(first) == Path(__file__).parents[3]


def test_the_helpers_beside_the_interpreter_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", f"/usr/bin:{beside}")
    assert flower_environment(tmp_path)["PATH"].split(os.pathsep) == [beside, "/usr/bin"]
    monkeypatch.delenv("PATH")
    assert flower_environment(tmp_path)["PATH"] == beside


def test_an_absent_program_is_named() -> None:
    assert Path(flower_command("flower-supernode")).is_absolute()
    with pytest.raises(ProcessError, match="flower-nothing"):
        flower_command("flower-nothing")
