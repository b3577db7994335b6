"""`/metrics` at the operator door, for Prometheus: with a token of its own, which opens nothing else."""

import threading
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from server.home import ServerHome
from server.opening import open_store
from server.store import Store
from server.watching.metrics import AtTheDoor, metrics
from shared.errors import CollegiumError
from shared.watching.metrics import CONTENT_TYPE_LATEST, PATH, exposition
from shared.watching.token import shows, token_of


class MetricsDoor:
    """Answers `GET /metrics`; one question at a time, so that many do not keep the doors from their work.

    Args:
        home: The coordinator's folder; its store is opened with the first question.
        at_the_door: What the SuperLink knows.

    Raises:
        ConfigError: The token cannot be read or made.
    """

    def __init__(self, home: ServerHome, at_the_door: Callable[[], AtTheDoor]) -> None:
        self._home, self._at_the_door = home, at_the_door
        self._token = token_of(home.metrics_token_file)
        self._store: Store | None = None
        self._turn = threading.Lock()

    def before(self, door: ASGIApp) -> ASGIApp:
        """The operator door, with `/metrics` before it."""

        async def both(scope: Scope, receive: Receive, send: Send) -> None:
            mine = scope["type"] == "http" and (scope["method"], scope["path"]) == ("GET", PATH)
            await (self._answer if mine else door)(scope, receive, send)

        return both

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: Response
        if not shows(Headers(scope=scope).get("authorization", ""), self._token):
            wanted = {"WWW-Authenticate": "Bearer"}
            response = JSONResponse({"detail": "Not authenticated"}, status_code=401, headers=wanted)
        else:
            try:
                response = Response(await run_in_threadpool(self._text), media_type=CONTENT_TYPE_LATEST)
            except CollegiumError as error:
                response = JSONResponse({"detail": str(error)}, status_code=503)
        await response(scope, receive, send)

    def _text(self) -> bytes:
        with self._turn:
            self._store = self._store or open_store(self._home.root)
            return exposition(metrics(self._home, self._store, self._at_the_door()))
