"""The institution's own small door, on loopback: `/metrics` with a token for Prometheus, `/health` without.

`/health` says whether a round could run here (the coordinator is reached, model and data are loaded), `/health/live`
that the daemon answers.
"""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from client.institution import Institution
from client.watching.metrics import Left, Link, metrics
from shared.errors import CollegiumError, ConnectionFailedError
from shared.watching.metrics import CONTENT_TYPE_LATEST, PATH, exposition, processes
from shared.watching.token import shows, token_of

HOST = "127.0.0.1"
TOKEN = "metrics.token"
"""In the state folder."""


@contextmanager
def watched(institution: Institution, link: Link) -> Iterator[None]:
    """While the block lasts, answer at `watching.port`, if there is one.

    Raises:
        ConnectionFailedError: The port is taken.
        ConfigError: The token cannot be read or made.
    """
    port = institution.watching.port
    if port is None:
        yield
        return
    token = token_of(institution.runtime.state / TOKEN)
    try:
        server = ThreadingHTTPServer((HOST, port), _handler(institution, link, token))
    except OSError as error:
        raise ConnectionFailedError(
            f"Expected to listen on {HOST}:{port} for metrics, but that is not possible ({error.strerror}); stop the "
            "program that uses the port, or change watching.port in the institution file."
        ) from None
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="watching", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(institution: Institution, link: Link, token: str) -> type[BaseHTTPRequestHandler]:
    left, turn = Left(institution), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        timeout = 10.0  # for who connects and says nothing
        server_version, sys_version = "collegium", ""

        def do_GET(self) -> None:
            """Answer one question."""
            if self.path in ("/health", "/health/live"):
                running = processes(os.getpid())
                serving = self.path != "/health" or (link.connected(running) and link.ready(running))
                told = json.dumps({"status": "SERVING" if serving else "NOT_SERVING"})
                return self._answer(200 if serving else 503, told.encode(), "application/json")
            if self.path != PATH:
                return self._answer(404, b"Not Found\n")
            if not shows(self.headers.get("authorization", ""), token):
                return self._answer(401, b"Not authenticated\n")
            try:
                with turn:
                    self._answer(200, exposition(metrics(institution, link, left)), CONTENT_TYPE_LATEST)
            except (CollegiumError, OSError) as error:
                self._answer(503, f"{error}\n".encode())

        def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", "Bearer")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """A question every few seconds is no news."""

    return Handler
