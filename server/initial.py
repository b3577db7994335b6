"""The model before the first round, made by a process of its own: making it takes torch, which the coordinator lacks.

    python -m server.initial FOLDER

reads FOLDER/federation.toml, writes FOLDER/initial.safetensors, or FOLDER/error with the reason why not, and ends.
"""

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from safetensors.numpy import load_file, save_file

from server.home import HOME_VARIABLE
from server.store import Store, runs
from shared.adapter import get_state
from shared.codec import Arrays
from shared.errors import CollegiumError, ConfigError, ProcessError, StoreError
from shared.federation import Federation, federation_toml, load_federation
from shared.process.flower import python_environment
from shared.process.memory import loading

AGREEMENT, STATE, ERROR = "federation.toml", "initial.safetensors", "error"


def initial_state(store: Store, run: str, federation: Federation) -> Arrays:
    """What a run begins with: as an earlier run under the same agreement began, else made anew.

    Raises:
        ConfigError: The backbone is missing or not the agreed one, or the agreement does not fit it.
        ProcessError: The process that makes it was killed, for example for want of memory.
    """
    for row in reversed(store.rows(runs)):
        if row["digest"] == federation.digest and row["run"] != run and store.last_round(row["run"]) is not None:
            with suppress(StoreError):  # its file is gone or damaged
                return store.load_checkpoint(row["run"], 0).model
    return make_initial_state(federation)


def make_initial_state(federation: Federation) -> Arrays:
    """Have a child process make the state; raises as `initial_state`."""
    with tempfile.TemporaryDirectory(prefix="collegium-initial-") as name:
        folder = Path(name)
        (folder / AGREEMENT).write_text(federation_toml(federation), encoding="utf-8")
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "server.initial", name],
            env={**os.environ, **python_environment()},
            cwd=os.environ.get(HOME_VARIABLE),  # from which a relative name of a backbone starts, as in its file
            stdout=subprocess.DEVNULL,  # this process's own is a pipe of Flower's
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        if (folder / ERROR).exists():
            raise ConfigError((folder / ERROR).read_text(encoding="utf-8"))
        if ended.returncode:
            last = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise ProcessError(
                f"Expected the initial state, but the process that makes it ended with {ended.returncode}: {last}; "
                "where that is -9, give the machine 1 GB of memory."
            )
        return load_file(folder / STATE)


def main(folder: Path) -> None:
    """Make the initial state of the agreement in a folder."""
    try:
        with loading():
            from shared.model.multitask import build_model

            state = get_state(build_model(load_federation(folder / AGREEMENT)))
    except CollegiumError as error:
        (folder / ERROR).write_text(str(error), encoding="utf-8")
        return
    save_file(state, folder / STATE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
