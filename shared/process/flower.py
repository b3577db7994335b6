"""How Collegium starts Flower's own programs: where they are, and the environment they run in."""

import os
import sys
import sysconfig
from pathlib import Path

from shared.errors import ProcessError
from shared.process.proxies import loopback_environment

TASK_POLL_SECONDS = 0.1


def flower_environment(home: Path) -> dict[str, str]:
    """Variables that every Flower process needs, to be laid over the parent's environment.

    Flower phones home unless configured otherwise, installs what a run's bundle asks for, finds its helpers by name,
    and takes a proxy for its calls to this machine too.

    Args:
        home: Folder that Flower may write to (its `FLWR_HOME`); one per daemon, so that two daemons on one
            machine never share state.

    Returns:
        Variable names and values.
    """
    environment = {
        "FLWR_HOME": str(home.resolve()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": str(TASK_POLL_SECONDS),
        # Each of these would open a further port without Collegium's doors in front of it.
        "FLWR_INTERNAL_GRPC_CONTROL_API": "0",
        "FLWR_INTERNAL_GRPC_FLEET_API": "0",
        "PATH": _prepended("PATH", str(Path(sys.executable).parent)),
    }
    return environment | python_environment() | loopback_environment()


def python_environment() -> dict[str, str]:
    """What makes children import the same Collegium as their parent, whatever folder they run in."""
    root = Path(__file__).resolve().parents[2]
    if root == Path(sysconfig.get_path("purelib")).resolve():
        return {}
    return {"PYTHONPATH": _prepended("PYTHONPATH", str(root))}


def flower_command(name: str) -> str:
    """Absolute path of one of Flower's programs, for example `flower-supernode`.

    Raises:
        ProcessError: It is not installed beside the running interpreter.
    """
    path = Path(sys.executable).parent / name
    if not os.access(path, os.X_OK):
        raise ProcessError(
            f"Expected Flower's program {name} beside the interpreter, but {path} does not exist or cannot be run; "
            f"install Collegium into this environment again with `{sys.executable} -m pip install collegium`."
        )
    return str(path)


def _prepended(variable: str, entry: str) -> str:
    present = os.environ.get(variable, "").split(os.pathsep)
    return os.pathsep.join([entry, *(path for path in present if path and path != entry)])
