"""The coordinator's page as an ASGI application, behind the operator door: `/page` and all below it."""

import contextlib
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from server.dashboard import actions, tables
from server.dashboard.address import ROOT
from server.dashboard.viewing import View
from server.home import ServerHome
from shared.errors import LONGEST_LINE, ConfigError, plain
from shared.federation import federation_toml
from shared.page.guard import Place, session_of
from shared.page.live import Live
from shared.page.rendering import Pages
from shared.page.sessions import Role, Sessions
from shared.page.site import Site
from shared.page.threads import in_thread

TEMPLATES = Path(__file__).parent / "templates"
LINKS = {"/": "Runs", "/agreement": "Agreement and members"}
RELEASE_SECONDS = 600.0


def coordinator_page(home: ServerHome) -> ASGIApp:
    """The page of one coordinator.

    Args:
        home: Its folder.
    """
    place = Place(ROOT, ROOT, "__Secure-collegium", secure=True)
    pages = Pages(TEMPLATES, ROOT, ROOT)
    view = View(home, pages)
    site = Site(
        place,
        pages,
        title="Collegium coordinator",
        token_file=str(home.operator_token_file),
        links=LINKS,
        prepare=view.prepare,
    )
    return site.app(Sessions(lambda: tokens(home)), Routes(home, site, view).all())


def tokens(home: ServerHome) -> Mapping[Role, str]:
    """The tokens that are good now: the operator's, and the viewers' if one was made."""
    found: dict[Role, str] = {}
    with contextlib.suppress(OSError, ConfigError):
        if viewer := home.viewer_token_file.read_text(encoding="ascii", errors="replace").strip():
            found["viewer"] = viewer
    with contextlib.suppress(ConfigError):
        found["operator"] = home.operator_token
    return found


class Routes:
    """What the page answers."""

    def __init__(self, home: ServerHome, site: Site, view: View) -> None:
        self._home, self._site, self._view = home, site, view
        self._live: dict[str, Live] = {}
        self._releasing = threading.Lock()

    def all(self) -> list[BaseRoute]:
        """Its routes, under the root."""
        return [
            Route("/", self.run),
            Route("/agreement", self.agreement),
            Route("/runs/{run}", self.run),
            Route("/runs/{run}/live", self.live),
            Route("/runs/{run}/curves/{task}", self.curves),
            Route("/runs/{run}/bundle.zip", self.bundle),
            Route("/runs/{run}/federation.toml", self.federation),
            Route("/confirm/{action}", self.confirm),
            Route("/do/{action}", self.act, methods=["POST"]),
        ]

    async def run(self, request: Request) -> Response:
        """A run, the latest if not named."""
        values = await in_thread(self._view.run_page, request.path_params.get("run"))
        return self._site.show(request, "run.html", values)

    async def agreement(self, request: Request) -> Response:
        """What is agreed, and with whom."""
        return self._site.show(request, "agreement.html", await in_thread(self._view.agreement_page))

    async def live(self, request: Request) -> Response:
        """What changes on a run's page."""
        run = request.path_params["run"]
        await in_thread(self._view.picture, run)  # ConfigError if there is none
        for gone in [each for each, live in self._live.items() if not live.followed]:
            del self._live[gone]
        live = self._live.setdefault(run, Live(lambda: self._view.parts(run)))
        return live.stream(request.scope["signed_in"])

    async def curves(self, request: Request) -> Response:
        """A task's curves as they are drawn."""
        picture, _ = await in_thread(self._view.picture, request.path_params["run"])
        task = request.path_params["task"]
        if task not in picture.federation.tasks:
            raise HTTPException(404, "The run has no such task.")
        return JSONResponse(await in_thread(tables.curves, picture, task))

    async def federation(self, request: Request) -> Response:
        """The agreement of a run, as a file."""
        picture, _ = await in_thread(self._view.picture, request.path_params["run"])
        headers = {"content-disposition": 'attachment; filename="federation.toml"'}
        return PlainTextResponse(federation_toml(picture.federation), headers=headers, media_type="application/toml")

    async def bundle(self, request: Request) -> Response:
        """The release as an archive, for operators; made by a process of its own, one at a time."""
        if session_of(request.scope).role != "operator":
            raise HTTPException(403, "A viewer may look, and not take the model along.")
        picture, _ = await in_thread(self._view.picture, request.path_params["run"])
        run = str(picture.row["run"])
        if not self._releasing.acquire(blocking=False):
            raise HTTPException(503, "Another bundle is being made: try again in a moment.")
        try:
            folder = Path(tempfile.mkdtemp(prefix="collegium-", dir=self._home.state))
            file = await in_thread(self._release, run, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            self._releasing.release()
        done = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
        return FileResponse(file, filename=f"bundle-{run}.zip", background=done)

    def _release(self, run: str, folder: Path) -> Path:
        command = [sys.executable, "-P", "-m", "collegium", "server", "release", str(self._home.root.resolve())]
        command += [str(folder / "bundle"), "--run", run]
        ended = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=RELEASE_SECONDS, check=False
        )
        if ended.returncode:
            said = (ended.stderr.strip().splitlines() or ["it did not say why"])[-1]
            raise ConfigError(plain(said.removeprefix("error: "), LONGEST_LINE))
        return Path(shutil.make_archive(str(folder / "bundle"), "zip", folder, "bundle"))

    async def confirm(self, request: Request) -> Response:
        """Ask whether an action is meant."""
        action = actions.ACTIONS.get(request.path_params["action"])
        if action is None:
            raise HTTPException(404, "There is no such action.")
        given = {key: value for key, value in request.query_params.items() if key in ("run", "name")}
        return self._site.confirm(request, **action.question(given), to=f"/do/{request.path_params['action']}")

    async def act(self, request: Request) -> Response:
        """Carry out an action that is meant."""
        action = actions.ACTIONS.get(request.path_params["action"])
        if action is None:
            raise HTTPException(404, "There is no such action.")
        form: Mapping[str, str] = request.scope["form"]

        def carry_out() -> str:
            try:
                return action.act(self._home, form)
            finally:
                self._view.forget_nodes()

        return await self._site.act(request, carry_out, action.back(form))
