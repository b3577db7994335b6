"""The door: FastAPI before a service, with what every answer needs around it."""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from client.serving import asking, documents
from client.serving.asking import RefusedError
from client.serving.metrics import CONTENT_TYPE_LATEST
from client.serving.page import page, static
from client.serving.service import Service
from client.serving.tokens import Guest, Role
from shared.page.guard import HEADERS, HOSTS

log = logging.getLogger("collegium.serving")
WAIT = {"www-authenticate": "Bearer"}


def make_app(service: Service, reload: Callable[[], Awaitable[str | None]] | None = None) -> FastAPI:
    """The application of a service, which it starts and closes.

    Args:
        service: What answers.
        reload: What an admin's request for a reload does, if not `Service.reload`: workers tell each other.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.get_running_loop().run_in_executor(None, service.close)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, **documents.ABOUT)
    app.mount("/static", static())
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(HTTPException, _not_found)
    _add_routes(app, service, reload or service.reload)
    app.add_middleware(Around, service=service)
    return app


def _add_routes(app: FastAPI, service: Service, reload: Callable[[], Awaitable[str | None]]) -> None:
    @app.post("/v1/predict/{task}", **documents.PREDICT)
    async def predict(request: Request, task: str) -> Response:
        guest = _guest(request, service, "predict")
        if task not in service.tasks:
            raise RefusedError(404, "Expected one of the tasks that /v1/tasks lists.")
        request.scope["task"] = task
        rows, single = await _answer(request, service, guest, [task])
        answers = [row[task] for row in rows]
        return JSONResponse(answers[0] if single else answers)

    @app.post("/v1/predict", **documents.PREDICT_ALL)
    async def predict_all(request: Request) -> Response:
        guest = _guest(request, service, "predict")
        request.scope["task"] = "all"
        rows, single = await _answer(request, service, guest, [])
        return JSONResponse(rows[0] if single else rows)

    @app.get("/v1/tasks", **documents.TASKS)
    async def tasks(request: Request) -> Response:
        _guest(request, service, "predict")
        return JSONResponse({name: served.described() for name, served in service.tasks.items()})

    @app.get("/health", **documents.HEALTH)
    async def health() -> Response:
        healthy = service.healthy
        return JSONResponse({"status": "SERVING" if healthy else "NOT_SERVING"}, 200 if healthy else 503)

    @app.get("/metrics", **documents.METRICS)
    async def metrics(request: Request) -> Response:
        _guest(request, service, "metrics")
        return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    @app.post("/admin/reload", **documents.RELOAD)
    async def reloading(request: Request) -> Response:
        _guest(request, service, "admin")
        failed = await reload()
        return JSONResponse({"error": failed} if failed else {"reloaded": True}, 409 if failed else 200)

    @app.get("/", include_in_schema=False)
    async def front() -> Response:
        tasks = {name: served.described() for name, served in service.tasks.items()}
        return HTMLResponse(page({} if service.doorkeeper.asks else tasks, asks=service.doorkeeper.asks))


def _guest(request: Request, service: Service, role: Role) -> Guest:
    """Who asks; RefusedError unless that is theirs to ask."""
    guest = service.doorkeeper.find(request.headers.get("authorization", ""), role)
    if guest is None:
        raise RefusedError(401, "Expected a token: Authorization: Bearer TOKEN.", WAIT)
    if not guest.may(role):
        raise RefusedError(403, f"Expected a token whose role is {role}.")
    return guest


async def _answer(
    request: Request, service: Service, guest: Guest, names: list[str]
) -> tuple[list[dict[str, Any]], bool]:
    settings = service.settings
    given = await asking.read(request, most_bytes=settings.most_bytes, most_texts=settings.most_texts)
    if seconds := service.doorkeeper.take(guest, len(given.inputs)):
        raise RefusedError(429, "These texts are more than this token's rate allows.", {"retry-after": str(seconds)})
    rows = await service.answer(names, given, asking.deadline(request, settings.deadline))
    for row in rows:
        for task in row:
            service.metrics.texts.labels(task).inc()
    return rows, given.single


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return JSONResponse({"error": error.text}, error.status, error.headers)


async def _not_found(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


class Around:
    """Around every request: hosts that may be named, headers of answers, counts, and failures that say nothing.

    Without tokens the door is on loopback, where only its own names are answered to: another site could otherwise send
    a browser here under a name of its own.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        loop, status = asyncio.get_running_loop(), 0
        started = loop.time()

        async def answering(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in (HEADERS | {"cache-control": "no-store"}).items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            if not self._service.doorkeeper.asks and not _is_ours(scope):
                refusal = PlainTextResponse("Expected 127.0.0.1 or localhost as the host.", 421)
                return await refusal(scope, receive, answering)
            await self._app(scope, receive, answering)
        except Exception as error:
            _log(error)
            if not status:
                await JSONResponse({"error": "The server failed."}, 500)(scope, receive, answering)
        finally:
            if "task" in scope:
                self._service.metrics.answers.labels(scope["task"], str(status or 499)).inc()
                self._service.metrics.seconds.observe(loop.time() - started)


def _log(error: BaseException) -> None:
    """Say where a failure came from, and nothing of its text, which may hold a client's."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    last = traceback.extract_tb(error.__traceback__)[-1]
    log.error("a request failed: %s in %s, line %s", type(error).__name__, last.filename, last.lineno)


def _is_ours(scope: Scope) -> bool:
    """Whether a request names this machine by a name that nobody else can have."""
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    try:
        return len(hosts) == 1 and urlsplit(f"//{hosts[0]}").hostname in HOSTS
    except ValueError:
        return False
