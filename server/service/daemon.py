"""What `collegium server up DIR` runs: SuperLink and SuperExec as supervised children, and the queue of runs."""

import ssl
import threading
import time
from collections.abc import Callable
from functools import partial

import httpx

from server.agreement import waited_for
from server.enrolment.certificates import keep_good
from server.home import HOME_VARIABLE, ServerHome, ServerSettings, bracketed, read_settings
from server.opening import open_store
from server.runs.queue import Queue, conduct
from server.service.keeping import look_after
from server.service.listeners import OPERATOR_HOST, open_listeners
from server.service.operator import OperatorClient
from server.store import Store
from server.tracking.trackers import check_trackers
from server.upkeep.retention import lack_of_room, make_room
from server.watching.notices import Finder
from shared.process.files import private_folder, private_umask
from shared.process.flower import flower_environment
from shared.process.lock import holder, only_one
from shared.process.program import command
from shared.process.supervisor import Child, supervise
from shared.upkeep.manager import tell
from shared.watching.notices import Notifier, check_notifying, in_background

START_SECONDS = 60.0
POLL_SECONDS = 0.05


def serve(home: ServerHome, *, stop: threading.Event, announce: Callable[[str], None]) -> None:
    """Run the coordinator's server until `stop` is set; its children are then stopped too.

    Args:
        home: The coordinator's folder, as `server.home.open_home` returns it.
        stop: Set by the caller, for example on SIGTERM.
        announce: Receives one line when the public door answers, and one whenever a child is restarted.

    Raises:
        ConfigError: The settings are wrong, such as the store's URL, or the folder is served already.
        StoreError: The store cannot be opened.
        ConnectionFailedError: A port is taken.
        ProcessError: The SuperLink gave up for a reason that a restart does not mend, for example a damaged database.
    """
    private_umask()
    settings = read_settings(home)
    if settings.notify:
        check_notifying(home.root / settings.notify)
    check_trackers(settings.tracking)
    for folder in (*home.private, home.flower):
        private_folder(folder)
    with (
        only_one(home.lock_file, serving=str(home.root), advice="stop that one first or use another folder"),
        open_store(home.root) as store,
        OperatorClient(home) as operator,
    ):
        # Tried here first, so that the user sees the reason at once instead of in a log.
        for listener in open_listeners(settings):
            listener.close()
        done = threading.Event()
        watcher = threading.Thread(
            target=_announce_when_up, args=(home, settings, done, stop, announce), name="health", daemon=True
        )
        queue = Queue(
            store,
            operator,
            lambda run: holder(home.run_lock(run)) is not None,
            announce,
            obstacle=partial(lack_of_room, home),
            waited_for=partial(waited_for, home),
        )
        conductor = threading.Thread(
            target=conduct,
            args=(queue,),
            # Not `done` alone: a run's process that is ended with all others has not been interrupted.
            kwargs={"over": lambda seconds: stop.wait(seconds) or done.is_set(), "announce": announce},
            name="runs",
            daemon=True,
        )
        keeper = threading.Thread(target=look_after, args=(home, settings, done, announce), name="keeper", daemon=True)
        room = threading.Thread(
            target=make_room,
            args=(home, store, settings.retention),
            kwargs={"over": done.wait, "announce": announce},
            name="room",
            daemon=True,
        )
        end_notices = _notify(home, settings, store, announce)
        if renewed := keep_good(home, settings):
            announce(renewed)
        for thread in (watcher, conductor, keeper, room):
            thread.start()
        try:
            supervise(_children(home, settings), stop=stop, announce=announce)
        finally:
            done.set()
            end_notices()
            for thread in (watcher, conductor, keeper, room):
                thread.join()


def _notify(
    home: ServerHome, settings: ServerSettings, store: Store, announce: Callable[[str], None]
) -> Callable[[], None]:
    """Send notices in the background, where they are asked for; what ends it."""
    if settings.notify is None:
        return lambda: None
    return in_background(Notifier(home.root / settings.notify, home.notices, announce), Finder(home, store), announce)


def _children(home: ServerHome, settings: ServerSettings) -> list[Child]:
    root = home.root.resolve()
    environment = {**flower_environment(home.flower), HOME_VARIABLE: str(root)}
    superlink = Child(
        name="superlink",
        argv=command("server.service.superlink", "--home", str(root)),
        log=home.logs / "superlink.log",
        env=environment,
    )
    superexec = Child(
        name="superexec",
        argv=command(
            "server.service.superexec",
            *("--runtime-api-address", f"{OPERATOR_HOST}:{settings.operator_port}"),
            *("--root-certificates", str(home.ca_certificate.resolve())),
            *("--superexec-auth-secret-file", str(home.superexec_secret_file.resolve())),
        ),
        log=home.logs / "superexec.log",
        env=environment,
    )
    children = [superlink, superexec]
    if any(dict(settings.tracking).values()):
        tracking = Child(
            name="tracking",
            argv=command("server.tracking.process", "--home", str(root)),
            log=home.logs / "tracking.log",
            env=environment,
        )
        children.append(tracking)
    if settings.enrolment_port is None:
        return children
    enrolment = Child(
        name="enrolment",
        argv=command("server.enrolment.door", "--home", str(root)),
        log=home.logs / "enrolment.log",
        env={**environment, "GRPC_VERBOSITY": "NONE"},  # strangers' broken handshakes fill no log
    )
    return [*children, enrolment]


def _announce_when_up(
    home: ServerHome,
    settings: ServerSettings,
    done: threading.Event,
    stop: threading.Event,
    announce: Callable[[str], None],
) -> None:
    began = time.monotonic()
    late = False
    while not done.wait(POLL_SECONDS) and not stop.is_set():
        if _is_up(home, settings):
            tell("READY=1")
            announce(f"The server is up: institutions reach it at {settings.address}.")
            return
        if not late and time.monotonic() - began > START_SECONDS:
            late = True
            announce(f"The server is not up after {START_SECONDS:.0f} s; look for the cause in {home.logs}.")


def _is_up(home: ServerHome, settings: ServerSettings) -> bool:
    """Whether the public door answers, as this coordinator."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.public_host, settings.public_host)
    trusted = ssl.create_default_context(cafile=str(home.ca_certificate))
    try:
        url = f"https://{bracketed(host)}:{settings.public_port}/health"
        return httpx.get(url, verify=trusted, timeout=2.0, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
