"""`collegium serve`: one process, or several workers on one port, until a signal ends them.

SIGTERM ends it: what has come is answered first. SIGHUP has the bundles read again: each worker loads them beside the
old ones, changes over between two requests, and answers what has come by what it came to.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors.multiprocess import Multiprocess

from client.serving.settings import Settings
from shared.errors import CollegiumError, ConfigError, ConnectionFailedError, ProcessError
from shared.process.memory import keep_few_kernels, loading

log = logging.getLogger("collegium.serving")
HEAD_SECONDS, HEAD_BYTES = 10.0, 16_384
MOST_CONNECTIONS = 1024
BACKLOG = 2048
LOOK_SECONDS = 0.5
GRACE_SECONDS = 30
START_SECONDS = 120
"""Until a worker answers its parent; it loads torch meanwhile."""
NEWS, WRONG = "reload", "wrong"
"""Files in the workers' folder: changed when they are to reload; and why one could not start."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class PatientProtocol(HttpToolsProtocol):
    """HTTP/1.1, as patient as HEAD_SECONDS with a head, and with HEAD_BYTES of it; uvicorn has no limit on either."""

    _head_bytes, _timer = 0, None

    def connection_made(self, transport: Any) -> None:
        """Wait for the first head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for."""
        self._head_is_there()
        super().connection_lost(exc)

    def on_url(self, url: bytes) -> None:
        """A part of the head."""
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A part of the head."""
        self._count(name + value)
        super().on_header(name, value)

    def on_message_begin(self) -> None:
        """Another head begins; a client sends no further one before it has its answer."""
        if self.pipeline:
            raise httptools.HttpParserError("requests before the answer to the last one")
        super().on_message_begin()
        if self._timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._head_is_there()
        super().on_headers_complete()

    def _count(self, part: bytes) -> None:
        self._head_bytes += len(part)
        if self._head_bytes > HEAD_BYTES:
            raise httptools.HttpParserError("a head that is too long")

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _head_is_there(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Workers(Multiprocess):
    """Several processes that accept from one socket; one that dies is started again.

    Args:
        folder: That they share.
        config: uvicorn's, of the processes.
        work: What each does.
        sockets: The one.
    """

    def __init__(
        self, folder: Path, config: uvicorn.Config, work: Callable[..., None], sockets: list[socket.socket]
    ) -> None:
        super().__init__(config, work, sockets)
        self._folder = folder

    def handle_hup(self) -> None:
        """Have all of them read the bundles again."""
        (self._folder / NEWS).touch()

    def keep_subprocess_alive(self) -> None:
        """Start again whoever died, unless one has said why it cannot start."""
        if (self._folder / WRONG).exists():
            self.should_exit.set()
        super().keep_subprocess_alive()


def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    certificate: Path | None = None,
    key: Path | None = None,
    announce: Callable[[str], None],
) -> None:
    """Serve until a signal.

    Args:
        settings: What.
        host: Address to listen at.
        port: TCP port; 0 picks a free one.
        certificate: Of the server, PEM; with its `key`. None is plain HTTP.
        key: Its private key.
        announce: Told where it is.

    Raises:
        CollegiumError: A bundle cannot be read, an option is wrong, the port is taken.
    """
    check_door(settings, host, certificate, key)
    options: dict[str, Any] = {
        "http": PatientProtocol,
        "ws": "none",
        "proxy_headers": False,
        "server_header": False,
        "access_log": False,
        "log_level": "warning",
        "backlog": BACKLOG,
        "limit_concurrency": MOST_CONNECTIONS,
        "timeout_graceful_shutdown": GRACE_SECONDS,
        "timeout_worker_healthcheck": START_SECONDS,
        "ssl_certfile": certificate,
        "ssl_keyfile": key,
        "workers": settings.workers,
    }
    scheme = "https" if certificate else "http"
    with _listening(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        print(f"{scheme}://{shown}:{listener.getsockname()[1]}/", flush=True)
        if settings.tokens is None:
            announce("Whoever uses this machine may ask: there are no tokens.")
        elif certificate is None:
            announce("Tokens and texts cross the network as they are: put TLS before it, or give --certificate.")
        if settings.workers == 1:
            return _run(settings, options, [listener])
        with _folder() as folder:
            work = partial(_work, replace(settings, folder=folder), options)
            Workers(folder, uvicorn.Config(_none, **options), work, [listener]).run()
            if (wrong := folder / WRONG).exists():
                raise ProcessError(wrong.read_text(encoding="utf-8"))


def check_door(settings: Settings, host: str, certificate: Path | None, key: Path | None) -> None:
    """Raise ConfigError if a door would be open to whom it should not be, or its certificate is half."""
    if settings.tokens is None and host not in LOOPBACK:
        raise ConfigError(f"Expected --tokens with --host {host}, which others reach; name a file of tokens.")
    if (certificate is None) != (key is None):
        raise ConfigError("Expected --certificate and --private-key together, but one came alone; give both.")
    for file in (certificate, key):
        if file is not None and not file.is_file():
            raise ConfigError(f"Expected a PEM file at {file}, but there is none; check the path.")


async def _none(*_: Any) -> None:
    """In the place of an application, which the parent of workers has none of."""


def _work(settings: Settings, options: dict[str, Any], sockets: list[socket.socket] | None = None) -> None:
    """One worker; what keeps it from starting is written down for the parent."""
    assert settings.folder is not None
    assert sockets is not None
    try:
        _run(settings, options, sockets)
    except CollegiumError as error:
        (settings.folder / WRONG).write_text(str(error), encoding="utf-8")
        sys.exit(1)


def _run(settings: Settings, options: dict[str, Any], sockets: list[socket.socket]) -> None:
    """Serve in this process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("httpx", "asyncio", "presidio-analyzer"):
        logging.getLogger(name).setLevel(logging.WARNING)
    seen = 0 if settings.folder is None else _stamp(settings.folder)  # of what is read from here on
    keep_few_kernels()  # texts come in all lengths, for weeks
    with loading():
        from client.serving.app import make_app
        from client.serving.service import Service

        service = Service(settings)
    everyone = None if settings.folder is None else partial(_tell, settings.folder)
    server = uvicorn.Server(uvicorn.Config(make_app(service, everyone), **options | {"workers": 1}))
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(_serve(server, service.reload, sockets, settings.folder, seen))


async def _serve(
    server: uvicorn.Server,
    reload: Callable[[], Awaitable[Any]],
    sockets: list[socket.socket],
    folder: Path | None,
    seen: int,
) -> None:
    """Serve, and reload by SIGHUP, or as a worker when the folder says so."""
    parent = os.getppid()
    reloads = set[asyncio.Future[Any]]()

    def begin() -> None:
        reloads.add(asyncio.ensure_future(reload()))

    if folder is None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, begin)
    serving = asyncio.create_task(server.serve(sockets))
    while folder is not None and not serving.done():
        await asyncio.wait([serving], timeout=LOOK_SECONDS)
        if (now := _stamp(folder)) != seen:
            seen = now
            begin()
        if os.getppid() != parent:  # which has died and ends nobody any more
            server.should_exit = True
    await serving


def _stamp(folder: Path) -> int:
    file = folder / NEWS
    return file.stat().st_mtime_ns if file.exists() else 0


async def _tell(folder: Path) -> None:
    """An admin's request reaches one worker, which tells all, itself among them."""
    (folder / NEWS).touch()


@contextmanager
def _folder() -> Iterator[Path]:
    """Where workers share what they count; its name is in the environment before they import Prometheus' client."""
    from client.serving.metrics import share

    with tempfile.TemporaryDirectory(prefix="collegium-serve-") as folder:
        share(Path(folder))
        yield Path(folder)


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConnectionFailedError(
            f"Expected to listen on {host}:{port}, but that is not possible ({error.strerror}); stop the program that "
            "uses the port, or give another one by --port."
        ) from None
    with listener:
        yield listener
