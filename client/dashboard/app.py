"""The institution's page as an ASGI application."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from client.agreement.report import decide
from client.dashboard.viewing import SHOWN, TONES, View
from client.leaving import outbox
from shared.errors import shown
from shared.page.guard import Place
from shared.page.live import Live
from shared.page.rendering import Pages
from shared.page.sessions import Sessions
from shared.page.site import Site, field
from shared.page.threads import in_thread

ENTRY = ""
"""The page that asks for the token stands at `/sign-in`; the rest at a path that is told to who has shown it."""
TEMPLATES = Path(__file__).parent / "templates"
LINKS = {"/": "This site", "/receipts": "What left", "/agreement": "Agreement"}


def institution_page(file: Path, root: str, token: str, token_file: Path) -> ASGIApp:
    """The page of one site.

    Args:
        file: Its `institution.toml`.
        root: The path before all that needs a cookie; nobody else may guess it.
        token: With which its operator signs in.
        token_file: Where that stands.

    Raises:
        ConfigError: The file is wrong.
    """
    pages = Pages(TEMPLATES, root, ENTRY)
    view = View(file, pages)
    place = Place(root, ENTRY, "collegium-site", secure=False)
    site = Site(place, pages, title=view.institution.name, token_file=str(token_file), links=LINKS)
    return site.app(Sessions(lambda: {"operator": token}), Routes(site, view).all())


class Routes:
    """What the page answers."""

    def __init__(self, site: Site, view: View) -> None:
        self._site, self._view = site, view
        self._live = Live(view.parts)

    def all(self) -> list[BaseRoute]:
        """Its routes, under the root."""
        return [
            Route("/", self.front),
            Route("/live", self.live),
            Route("/receipts", self.receipts),
            Route("/agreement", self.agreement),
            Route("/confirm/{action}", self.confirm),
            Route("/do/{action}", self.act, methods=["POST"]),
        ]

    async def front(self, request: Request) -> Response:
        """What runs, what waits, what is spent."""
        parts = await in_thread(self._view.parts)
        # They are rendered, and escaped, by `View.parts`.
        return self._site.show(request, "site.html", {"parts": {name: Markup(part) for name, part in parts.items()}})

    async def live(self, request: Request) -> Response:
        """What changes on the front page."""
        return self._live.stream(request.scope["signed_in"])

    async def receipts(self, request: Request) -> Response:
        """All receipts, some at a time."""
        written = await in_thread(self._view.receipts)
        before = request.query_params.get("before", "")
        last = min(int(before[:9]), len(written)) if before.isascii() and before.isdigit() else len(written)
        rows = list(reversed(written[max(0, last - SHOWN) : last]))
        values = {"rows": rows, "count": len(written), "earlier": max(0, last - SHOWN), "tones": TONES}
        return self._site.show(request, "receipts.html", values)

    async def agreement(self, request: Request) -> Response:
        """What is agreed, and what is offered."""
        return self._site.show(request, "agreement.html", await in_thread(self._view.agreement))

    async def confirm(self, request: Request) -> Response:
        """Ask whether a decision is meant."""
        action, named = request.path_params["action"], request.query_params.get("id", "")
        if action not in QUESTIONS:
            raise HTTPException(404, "There is no such action.")
        question, text, verb, back = QUESTIONS[action]
        about = {"question": question.format(shown(named[:12])), "text": text, "verb": verb, "back": back}
        return self._site.confirm(request, **about, to=f"/do/{action}", fields={"id": named})

    async def act(self, request: Request) -> Response:
        """Carry out what is meant."""
        action, named = request.path_params["action"], field(request, "id")
        known: dict[str, tuple[Callable[[], Any], str]] = {
            "approve": (lambda: self._decide(named, "approved"), "/"),
            "reject": (lambda: self._decide(named, "rejected"), "/"),
            "agree": (lambda: decide(self._view.file, named, approved=True), "/agreement"),
            "decline": (lambda: decide(self._view.file, named, approved=False), "/agreement"),
            "verify": (self._view.verify, "/receipts"),
            "check": (self._check, "/"),
        }
        if action not in known:
            raise HTTPException(404, "There is no such action.")
        carry_out, back = known[action]
        return await self._site.act(request, carry_out, back)

    def _decide(self, name: str, decision: outbox.Decision) -> str:
        outbox.decide(self._view.state, name, decision)
        return f"Update {name} is {decision}."

    def _check(self) -> str:
        self._view.doctor.ask()
        return "Your data are being checked; what is found appears below."


QUESTIONS = {
    "approve": (
        "Let update {} leave?",
        "It is sent to the coordinator at once, and cannot be taken back.",
        "Approve",
        "/",
    ),
    "reject": (
        "Delete update {}?",
        "It never leaves. The coordinator is told that it was held and rejected.",
        "Reject",
        "/",
    ),
    "agree": (
        "Approve the agreement {}...?",
        "It is in force here with the first request under it. Read how it differs first.",
        "Approve",
        "/agreement",
    ),
    "decline": (
        "Decline the agreement {}...?",
        "Nothing changes here, and the coordinator is told.",
        "Decline",
        "/agreement",
    ),
}
"""By action: what is asked, what it means, the word on the button, and where people go back to."""
