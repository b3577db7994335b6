"""The Flower ServerApp: finds its run in the coordinator's store and hands it to the round loop."""

import contextlib
import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import RunNotRunningException

from server import rounds
from server.bundle import RUN_KEY
from server.home import HOME_VARIABLE
from server.running import open_store
from shared.errors import CollegiumError, ConfigError, StoreError

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run configuration names, from the state that the store holds."""
    from shared.adapter import get_state
    from shared.model import build_model

    home, run_id = os.environ.get(HOME_VARIABLE), str(context.run_config.get(RUN_KEY, ""))
    if not home or not run_id:
        raise ConfigError(
            "Expected a run started by `collegium server run`, but this one names no coordinator's folder."
        )
    with open_store(Path(home)) as store:
        try:
            federation = store.agreement(run_id)
            initial = get_state(build_model(federation))
            rounds.run(grid, federation=federation, store=store, run_id=run_id, initial_state=initial, announce=_print)
        except BaseException as error:
            with contextlib.suppress(StoreError):  # a full disk must not hide what went wrong
                store.update_run(run_id, status="failed", reason=_reason(error))
            raise


def _reason(error: BaseException) -> str:
    if isinstance(error, CollegiumError):
        return str(error)
    if isinstance(error, RunNotRunningException):
        return "The run was stopped; its last checkpoint is kept, so that it can be resumed."
    return f"{type(error).__name__}: {error}"


def _print(text: str) -> None:
    print(text, flush=True)
