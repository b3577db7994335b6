"""The Flower ServerApp: finds its run in the coordinator's store and hands it to the round loop."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server.agreement import longer_agreement
from server.bundle import RUN_KEY
from server.home import HOME_VARIABLE, open_home
from server.initial import state_to_begin_with
from server.opening import open_store
from server.rounds import loop as rounds
from server.service.grid import carrying
from server.service.replies import replies_held
from server.store import Store
from shared.errors import (
    LONGEST_LINE,
    BackboneError,
    CollegiumError,
    ConfigError,
    DataError,
    EnrolmentError,
    StoreError,
    plain,
)
from shared.federation import Federation, load_federation
from shared.flower.constants import console_handler
from shared.flower.messages import RunNotRunningException
from shared.model.backbone import beside
from shared.process.files import private_folder, private_umask
from shared.process.lock import only_one
from shared.state import State
from shared.watching.logs import about, written

LASTING = (ConfigError, BackboneError, DataError, EnrolmentError)
"""What another try would meet again."""

app = ServerApp()
log = logging.getLogger("server.run")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run configuration names, from the state that the store holds."""
    console_handler.colored = False  # what it logs ends up in a file
    private_umask()  # the folder's owner may have started the SuperLink, and this process, by other means
    held = replies_held(os.environ.get(HOME_VARIABLE))
    with _open(context) as (store, run_id), held as look, contextlib.ExitStack() as known:
        try:
            known.enter_context(about(run=run_id))
            if home := os.environ.get(HOME_VARIABLE):
                known.enter_context(written(log, open_home(Path(home)).run_log(run_id), "run"))
            federation = store.agreement(run_id)
            initial = _initial(store, run_id, federation) if store.last_round(run_id) is None else None
            rounds.run(
                carrying(grid),
                federation=federation,
                store=store,
                run_id=run_id,
                initial_state=initial,
                announce=_print,
                look=look,
                longer=_longer,
                patient=True,
            )
        except BaseException as error:
            with contextlib.suppress(StoreError):  # a full disk must not hide what went wrong
                status = "failed" if isinstance(error, LASTING) else "interrupted"
                store.move_run(run_id, status, of=("running",), reason=plain(_reason(error), LONGEST_LINE))
            raise


@contextlib.contextmanager
def _open(context: Context) -> Iterator[tuple[Store, str]]:
    """The store and the run: those of `collegium server run`, or new ones where plain `flwr run .` started this."""
    home, run = os.environ.get(HOME_VARIABLE), str(context.run_config.get(RUN_KEY, ""))
    federation, folder = (str(context.run_config.get(key, "")) for key in ("federation", "folder"))
    if home and run:
        run_id, _, attempt = run.partition(":")
        taken = only_one(open_home(Path(home)).run_lock(run_id), serving=f"run {run_id}", advice="end that one first")
        with taken, open_store(Path(home)) as store:
            if not store.move_run(run_id, "running", of=("starting",), at=int(attempt)):
                raise ConfigError(f"Expected run {run_id} to be starting, but it was stopped or started once more.")
            yield store, run_id
    elif federation and folder:
        agreement, root = load_federation(Path(federation)), Path(folder)
        private_folder(root)
        with Store.open(f"sqlite:///{root / 'collegium.db'}", checkpoints=root / "checkpoints") as store:
            yield store, store.create_run(agreement)
    else:
        raise ConfigError(
            "Expected a run started by `collegium server run`, or the paths `federation` (a federation.toml) and "
            "`folder` in the run configuration, but neither is given; add --run-config 'federation=... folder=...'."
        )


def _longer(federation: Federation) -> Federation | None:
    """What a run may go on under in its next round; see `server.agreement`."""
    home = os.environ.get(HOME_VARIABLE)
    return longer_agreement(open_home(Path(home)), federation) if home else None


def _initial(store: Store, run_id: str, federation: Federation) -> State:
    name = federation.backbone.name
    if home := os.environ.get(HOME_VARIABLE):  # from which a relative name starts
        name = beside(name, open_home(Path(home)).federation_file)
    return state_to_begin_with(store, run_id, federation, name)


def _reason(error: BaseException) -> str:
    if isinstance(error, CollegiumError):
        return str(error)
    if isinstance(error, RunNotRunningException):
        return "Flower has ended the run; its last checkpoint is kept."
    if isinstance(error, SystemExit):
        return "The server was stopped; the last checkpoint is kept."
    return f"{type(error).__name__}: {error}"


def _print(text: str) -> None:
    """Into Flower's own record of the process, and into the run's log."""
    print(text, flush=True)
    log.info("%s", text)
