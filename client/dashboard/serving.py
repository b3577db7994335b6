"""`collegium client page`: serves the page on loopback while the command runs.

Without a certificate that a browser would trust it is plain HTTP, which nobody but this machine's own users can reach.
What they could do is kept small: the token is a new one at every start, in a file that is its owner's alone; sessions
end with the command; and the cookie is for a path that is told to nobody else, since a browser shows a cookie to every
port of a machine.
"""

import asyncio
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from client.dashboard.app import ENTRY, institution_page
from client.institution import load_institution
from shared.errors import ConnectionFailedError, StoreError
from shared.process.files import private_folder, write_new

HOST = "127.0.0.1"
TOKEN = "page.token"
"""In the state folder."""
END_SECONDS = 0.2


def serve(file: Path, *, port: int, show: bool, stop: threading.Event, announce: Callable[[str], None]) -> None:
    """Serve the page of a site until `stop` is set.

    Args:
        file: `institution.toml`.
        port: TCP port on loopback; 0 picks a free one.
        show: Whether to open it in a browser.
        stop: Set by the caller, for example on SIGTERM.
        announce: Told where it is.

    Raises:
        ConfigError: The file is wrong.
        ConnectionFailedError: The port is taken.
        StoreError: The token cannot be written.
    """
    institution = load_institution(file)
    token, token_file = secrets.token_urlsafe(32), institution.runtime.state / TOKEN
    app = institution_page(file, f"/{secrets.token_urlsafe(16)}", token, token_file)
    with _listening(port) as listener:
        _write(token_file, token)
        try:
            url = f"http://{HOST}:{listener.getsockname()[1]}{ENTRY}/sign-in"
            print(url, flush=True)
            announce(f"Sign in with the token in {token_file}. The page is there until you press Ctrl-C.")
            if show and not webbrowser.open(url):
                announce("There is no browser here to open it with.")
            asyncio.run(_serve(app, listener, stop))
        finally:
            token_file.unlink(missing_ok=True)


async def _serve(app: ASGIApp, listener: socket.socket, stop: threading.Event) -> None:
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)  # outside of the main thread it leaves signals alone
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not stop.is_set() and not serving.done():
        await asyncio.sleep(END_SECONDS)
    server.should_exit = True
    await serving


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise ConnectionFailedError(
            f"Expected to listen on {HOST}:{port}, but that is not possible ({error.strerror}); stop the program that "
            "uses the port, or give another one by --port."
        ) from None


def _write(file: Path, token: str) -> None:
    """A new file, which was its owner's alone from the first moment on."""
    try:
        private_folder(file.parent)
        file.unlink(missing_ok=True)
        write_new(file, f"{token}\n".encode("ascii"), 0o600)
    except OSError as error:
        raise StoreError(f"Could not write {file} ({error.strerror}); make room or mend its rights.") from None
