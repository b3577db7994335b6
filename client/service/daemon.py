"""What `collegium client up` runs: Flower's SuperNode and the resident executor as supervised children."""

import os
import secrets
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TextIO

from client.agreement import TOLD
from client.institution import Institution, federations_of, load_institution
from client.keys import read_private_key
from client.service.endings import RUNTIME_HOST, Ending, Hopeless, Patience, port_taken
from client.service.looking import looking
from client.watching.door import watched
from client.watching.metrics import Left, Link
from client.watching.notices import Finder
from shared.errors import CollegiumError, ConnectionFailedError, EnrolmentError, Reasons
from shared.process.files import check_folder, private_folder, private_umask
from shared.process.flower import flower_environment
from shared.process.lock import only_one
from shared.process.program import command
from shared.process.proxies import proxy_towards
from shared.process.supervisor import Child, supervise
from shared.upkeep.manager import tell
from shared.watching.logs import text_of
from shared.watching.notices import Notifier, check_notifying, in_background

GRACE_SECONDS = 4.0
LOG_POLL = 0.5
LOCK = "daemon.lock"
"""In the state folder: held by the daemon that serves it."""
NEWS = " collegium.news: "
"""In lines of the executor's log that are for people: `client.leaving.news`."""
EXECUTOR_READY = ": ready"
"""As client.service.executor ends its line; importing it here would load Flower's client side into this process."""

Announce = Callable[[str], None]


def serve(institution_file: Path, *, stop: threading.Event, announce: Announce, once: float | None = None) -> None:
    """Run one institution's daemon until `stop` is set, for all federations that its file names.

    One that fails is told, and the others go on; the error of the first is raised once none is left. As `serve_one`.
    """
    names = federations_of(institution_file)
    if not names:
        return serve_one(institution_file, stop=stop, announce=announce, once=once)
    failed: list[CollegiumError] = []

    def one(name: str) -> None:
        file = institution_file.with_name(f"{institution_file.name}#{name}")
        try:
            serve_one(file, stop=stop, announce=lambda text: announce(f"{name}: {text}"), once=once)
        except CollegiumError as error:
            failed.append(error)
            announce(f"{name}: error: {error}")

    for name in names:  # a wrong file is told at once, and of all of them
        load_institution(institution_file.with_name(f"{institution_file.name}#{name}"))
    threads = [threading.Thread(target=one, args=(name,), name=name) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed and not stop.is_set():
        raise failed[0]


def serve_one(institution_file: Path, *, stop: threading.Event, announce: Announce, once: float | None = None) -> None:
    """Run one institution's daemon until `stop` is set; its children are then stopped too, within 5 s.

    What a coordinator can mend is said once and tried again for ever: that it cannot be reached, shows a certificate
    that is not trusted, or does not know the key.

    Args:
        institution_file: The site's institution.toml.
        stop: Set by the caller, for example on SIGTERM.
        announce: Receives one plain line when the site is connected, when it is ready, and whenever that changes.
        once: End when one round is answered, when the run is over, or when nobody has asked for so many seconds.

    Raises:
        ConfigError: The file or the environment's proxy is wrong, or another daemon serves the same state folder.
        ConnectionFailedError: The runtime port is taken.
        StoreError: The state folder cannot be written to.
        EnrolmentError: The node key or the CA certificate is missing or unreadable.
        ProcessError: A child gave up: the key was revoked, or the executor found the configuration or the data wrong.
            Or no round was answered where one was to be, though not because nobody asked.
    """
    private_umask()
    institution = load_institution(institution_file)
    reasons = Reasons()
    for check in (check_certificate, check_key, check_state, check_proxy, check_notices):
        with reasons.gather():
            check(institution)
    reasons.end()
    state = institution.runtime.state
    for folder in (state, state / "logs", state / "flower"):
        private_folder(folder)
    advice = "stop that one first, or give this institution a runtime.state of its own"
    ending = Ending()
    with only_one(state / LOCK, serving=f"the state folder {state}", advice=advice), runtime_port(institution) as port:
        link, secret = Link(), _new_secret(state)
        supernode, executor = _children(institution_file, institution, port, secret)
        if once is not None:
            executor = replace(executor, argv=[*executor.argv, "--once", f"{once:g}"], give_up=ending.give_up)
        with (
            watched(institution, link),
            notifying(institution, institution_file, announce),
            looking(institution, announce),
            _news(supernode.log, partial(_announce_connection, institution, announce, link), ending),
            _news(executor.log, partial(_announce_ready, institution, announce, link), ending),
        ):
            tell("READY=1")  # whether or not the coordinator answers yet
            supervise([supernode, executor], stop=stop, announce=announce, grace=GRACE_SECONDS, until=ending.reached)
    if once is not None:
        announce(ending.outcome(institution, connected=link.connected_since is not None))


def _children(institution_file: Path, institution: Institution, port: int, secret_file: Path) -> list[Child]:
    state, server = institution.runtime.state, institution.server
    environment = flower_environment(state / "flower")
    supernode = command("client.service.supernode", "--poll", str(institution.runtime.poll))
    supernode += ["--last", str(state / "supernode.json"), "--institution", str(institution_file.resolve()), "--"]
    supernode += ["--superlink", server.address, "--root-certificates", str(server.ca)]
    supernode += ["--auth-supernode-private-key", str(institution.identity.key)]
    supernode += ["--isolation", "process", "--host", RUNTIME_HOST, "--port", str(port)]
    supernode += ["--superexec-auth-secret-file", str(secret_file)]
    executor = command("client.service.executor", "--institution", str(institution_file.resolve()))
    executor += ["--runtime", f"{RUNTIME_HOST}:{port}", "--secret-file", str(secret_file)]
    threads = {"OMP_WAIT_POLICY": "PASSIVE"}  # idle threads sleep: several sites may share a machine
    if institution.runtime.threads:
        threads["OMP_NUM_THREADS"] = str(institution.runtime.threads)
    return [
        Child(
            name="supernode",
            argv=supernode,
            log=state / "logs" / "supernode.log",
            env=environment,
            about={"institution": institution.name},
            give_up=Hopeless(institution, port),
            wait=Patience(institution),
        ),
        Child(
            name="executor",
            argv=executor,
            log=state / "logs" / "executor.log",
            env=environment | threads,
            about={"institution": institution.name},
        ),
    ]


def check_certificate(institution: Institution) -> None:
    """Read what Flower would read, so that the user sees the reason at once; EnrolmentError unless it is a CA's."""
    ca = institution.server.ca
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=ca)
    except OSError as error:  # SSLError is one
        raise EnrolmentError(
            f"Expected the coordinator's CA certificate (PEM) in {ca}, but {_cannot_be_read(error)}; "
            "get ca.crt from the coordinator, or correct server.ca in the institution file."
        ) from None


def check_key(institution: Institution) -> None:
    """Raise EnrolmentError or ConfigError unless the node's private key is one, and its owner's alone."""
    read_private_key(institution.identity.key)


def check_state(institution: Institution) -> None:
    """Raise StoreError unless the state folder can be written to."""
    check_folder(institution.runtime.state)


def check_notices(institution: Institution) -> None:
    """Raise ConfigError unless notices can be sent, where they are asked for."""
    if institution.watching.notify:
        check_notifying(institution.watching.notify)


def check_proxy(institution: Institution) -> None:
    """Raise ConfigError if the environment's proxy towards the coordinator is none."""
    proxy_towards(institution.server.address)


def _cannot_be_read(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        return f"it cannot be read ({error.strerror})"
    return "its content is something else"


def check_port(institution: Institution) -> None:
    """Raise ConnectionFailedError if the loopback port between the children is taken."""
    with runtime_port(institution):
        pass


@contextmanager
def runtime_port(institution: Institution) -> Iterator[int]:
    """The loopback port between the children, a free one if none is set, for nobody else while the block lasts.

    It is seconds until the SuperNode listens, and again whenever it has died: any connection of this machine could be
    given the port meanwhile. Linux lets a process listen where another has only bound with SO_REUSEADDR; elsewhere the
    port is looked at, and let go.

    Raises:
        ConnectionFailedError: Somebody listens on the port that is set.
    """
    wanted = institution.runtime.port
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((RUNTIME_HOST, wanted))
        except OSError:
            raise ConnectionFailedError(port_taken(wanted)) from None
        port: int = bound.getsockname()[1]
        if sys.platform != "linux":
            bound.close()
        yield port


def _new_secret(state: Path) -> Path:
    """Write a fresh secret, which only this start's two children know."""
    path = state / "superexec.secret"
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    return path


@contextmanager
def notifying(institution: Institution, file: Path, announce: Announce) -> Iterator[None]:
    """While the block lasts, send notices, where they are asked for."""
    if institution.watching.notify is None:
        yield
        return
    notifier = Notifier(institution.watching.notify, institution.runtime.state / "notices.json", announce)
    end = in_background(notifier, Finder(institution, str(file), Left(institution)), announce)
    try:
        yield
    finally:
        end()


@contextmanager
def _news(log: Path, tell: Callable[[Iterator[str]], None], ending: Ending) -> Iterator[None]:
    """While the block lasts, run `tell` in a thread over the lines that are appended to `log`, and not for `ending`."""
    done = threading.Event()
    with log.open("a+", encoding="utf-8", errors="replace") as file:
        file.seek(0, os.SEEK_END)  # what an earlier daemon wrote is not news
        thread = threading.Thread(target=tell, args=(ending.sift(_new_lines(file, done)),), name=log.stem, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _new_lines(log: TextIO, done: threading.Event) -> Iterator[str]:
    """Yield complete lines as they are appended, until `done` is set."""
    rest, size = "", 0
    while not done.wait(LOG_POLL):
        before, size = size, os.fstat(log.fileno()).st_size
        if size < before:  # the supervisor has begun it anew
            log.seek(0)
        *lines, rest = (rest + log.read()).split("\n")
        yield from map(text_of, lines)


def _announce_connection(institution: Institution, announce: Announce, link: Link, lines: Iterator[str]) -> None:
    address = institution.server.address
    proxy = proxy_towards(address)
    way = f" through the proxy {proxy}" if proxy else ""
    lost = False
    for line in lines:
        if line.startswith(TOLD):
            announce(line.removeprefix(TOLD))
        elif "SuperNode ID: " in line:
            announce(f"{institution.name} is connected to the coordinator at {address}.")
            lost, link.connected_since = False, time.time()
        elif "Connection attempt failed" in line and not lost:
            announce(f"The coordinator at {address} cannot be reached{way}; trying again until it can.")
            lost, link.connected_since = True, None
        elif "Connection successful" in line and lost:
            announce(f"The coordinator at {address} answers again.")
            lost, link.connected_since = False, time.time()


def _announce_ready(institution: Institution, announce: Announce, link: Link, lines: Iterator[str]) -> None:
    """Pass on what the executor says for people: that it is ready, and what became of every request."""
    for line in lines:
        _, found, news = line.partition(NEWS)
        if found:
            announce(news)
        if line.endswith(EXECUTOR_READY):
            link.ready_since = time.time()
            announce(f"{institution.name} is ready: its model and its data are loaded.")
