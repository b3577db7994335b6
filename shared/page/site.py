"""A page put together: its own routes, what both pages have, and the guard before all of them."""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from shared.errors import CollegiumError
from shared.page.guard import Guard, Place, session_of
from shared.page.rendering import STATIC, Pages
from shared.page.sessions import Sessions
from shared.page.threads import in_thread

T = TypeVar("T")
Values = Mapping[str, Any]


class Site:
    """What the routes of a page answer with.

    Args:
        place: Where it is.
        pages: Its templates.
        title: What it is called, in the head of every page.
        token_file: Where the token stands, as the page that asks for it says.
        links: What stands in the head of every page: words, by their path under the root.
        prepare: Called once, beside, when the page is first looked for: what takes time is done while a token is typed.
    """

    def __init__(
        self,
        place: Place,
        pages: Pages,
        *,
        title: str,
        token_file: str,
        links: Mapping[str, str],
        prepare: Callable[[], object] | None = None,
    ) -> None:
        self.place, self.pages = place, pages
        self._common = {"title": title, "token_file": token_file, "links": links}
        self._acting = asyncio.Lock()
        self._prepare = prepare

    def show(self, request: Request, template: str, values: Values, *, status: int = 200) -> Response:
        """A whole page."""
        session = session_of(request.scope)
        said, session.said = session.said, ""
        common = {**self._common, "session": session, "said": said, "path": request.url.path}
        return HTMLResponse(self.pages.render(template, common | dict(values)), status_code=status)

    def ask(self, status: int, text: str) -> Response:
        """The page that asks for a token."""
        if self._prepare is not None:
            prepare, self._prepare = self._prepare, None
            threading.Thread(target=prepare, name="page", daemon=True).start()
        values = {**self._common, "session": None, "said": "", "path": "", "wrong": text}
        return HTMLResponse(self.pages.render("sign_in.html", values), status_code=status)

    def confirm(self, request: Request, *, question: str, text: str, verb: str, to: str, **more: Any) -> Response:
        """The page that asks whether something is meant.

        Args:
            request: The request for it.
            question: Its heading.
            text: What would happen.
            verb: On the button.
            to: The path under the root that the form is sent to.
            more: `fields`, hidden ones of the form; `word`, which has to be typed; `back`, a path under the root.
        """
        if session_of(request.scope).role != "operator":
            raise HTTPException(403, "A viewer may look, and not act: sign in with the operator's token.")
        values = {"fields": {}, "word": None, "back": "/", "numbers": {}} | more
        return self.show(request, "confirm.html", {"question": question, "text": text, "verb": verb, "to": to} | values)

    async def act(self, request: Request, action: Callable[[], str], back: str) -> Response:
        """Do something, one at a time, and go back to a page that says what came of it."""
        session = session_of(request.scope)
        async with self._acting:
            try:
                session.said = await in_thread(action)
            except CollegiumError as error:
                session.said = f"That was not done. {error}"
        return RedirectResponse(f"{self.place.root}{back}", status_code=303)

    def app(self, sessions: Sessions, routes: Sequence[BaseRoute]) -> ASGIApp:
        """The page as an ASGI application.

        Args:
            sessions: Who is signed in.
            routes: Its own, with paths under the root; those that take POST are for operators.
        """

        async def failed(request: Request, error: Exception) -> Response:
            return self.show(request, "told.html", {"text": str(error)}, status=409)

        async def refused(_: Request, error: Exception) -> Response:
            assert isinstance(error, HTTPException)
            return PlainTextResponse(error.detail, status_code=error.status_code)

        static = Mount(f"{self.place.entry}/static", _Static(directory=STATIC))
        own = Mount(self.place.root, routes=list(routes))
        handlers: dict[Any, Any] = {CollegiumError: failed, HTTPException: refused}
        app = Starlette(routes=[static, own], exception_handlers=handlers)
        return Guard(app, self.place, sessions, self.ask)


class _Static(StaticFiles):
    """Files that a browser may keep, and asks about."""

    def file_response(self, *args: Any, **more: Any) -> Response:
        response = super().file_response(*args, **more)
        response.headers["cache-control"] = "no-cache"
        return response


def field(request: Request, name: str) -> str:
    """What a form says under a name; empty if nothing."""
    return str(request.scope["form"].get(name, ""))
