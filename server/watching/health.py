"""Whether rounds could run: `/health` at both doors. That the process answers at all is `/health/live`.

Institutions that are away are no fault of the coordinator: whoever lets a balancer send nobody to a coordinator that is
not healthy would keep them away for good. `collegium_run_quorum` and an alert speak of them.
"""

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.enrolment.certificates import look
from server.home import ServerHome
from server.opening import open_store
from server.store import Store
from shared.errors import CollegiumError
from shared.process.lock import is_served
from shared.watching.metrics import processes

READY_PATH, LIVE_PATH = "/health", "/health/live"
KNOWN_SECONDS = 2.0
"""How long an answer holds: whoever asks often costs nothing."""
SILENT_SECONDS = 40.0
"""SuperExec asks for a run to start at least every 20 s."""
LEAST_DISK = 64 * 2**20
"""Bytes without which no checkpoint is written."""


@dataclass
class Health:
    """Looks at what a round needs, and answers for it.

    Args:
        home: The coordinator's folder.
        superexec_asked: When SuperExec has last asked for a run to start, by the monotonic clock; None if never.
        ask_flower: A question to Flower's database, whatever it answers.
    """

    home: ServerHome
    superexec_asked: Callable[[], float | None]
    ask_flower: Callable[[], object]
    _store: Store | None = None
    _found: list[str] = field(default_factory=list)
    _until: float = 0.0
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def obstacles(self) -> list[str]:
        """Why no round could run, a sentence each; none if one could."""
        with self._turn:
            if time.monotonic() >= self._until:
                self._found = [
                    text for text in (self._daemon(), self._superexec(), self._disk(), *self._kept()) if text
                ]
                self._until = time.monotonic() + KNOWN_SECONDS
            return self._found

    def before(self, door: ASGIApp, *, reasons: bool) -> ASGIApp:
        """A door with both paths before it.

        Args:
            door: Answers all else.
            reasons: Whether whoever asks is told why.
        """
        turn = asyncio.Lock()

        async def both(scope: Scope, receive: Receive, send: Send) -> None:
            asked = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
            if asked and scope["path"] == LIVE_PATH:
                await JSONResponse({"status": "SERVING"})(scope, receive, send)
            elif asked and scope["path"] == READY_PATH:
                async with turn:  # one thread, however many ask
                    known = time.monotonic() < self._until
                    found = self._found if known else await run_in_threadpool(self.obstacles)
                told = {"status": "NOT_SERVING" if found else "SERVING"} | ({"reasons": found} if reasons else {})
                await JSONResponse(told, status_code=503 if found else 200)(scope, receive, send)
            else:
                await door(scope, receive, send)

        return both

    def _daemon(self) -> str:
        if is_served(self.home.lock_file):
            return ""
        return "The daemon that starts runs is not up (`collegium server up`)."

    def _superexec(self) -> str:
        asked = self.superexec_asked()
        if asked is None or time.monotonic() - asked > SILENT_SECONDS:
            return "Flower's SuperExec, which starts the processes of runs, does not ask for work."
        if "superexec" not in processes(os.getppid()) and is_served(self.home.lock_file):
            return "Flower's SuperExec, which starts the processes of runs, has ended."
        return ""

    def _disk(self) -> str:
        free = shutil.disk_usage(self.home.root).free
        return f"Only {free / 2**20:.0f} MiB are free on the disk." if free < LEAST_DISK else ""

    def _kept(self) -> list[str]:
        found = []
        with suppress(CollegiumError):
            if look(self.home).server < 0:
                found.append("The server certificate has ended.")
        if not os.access(self.home.checkpoints, os.W_OK):
            found.append("The folder of checkpoints cannot be written.")
        try:
            self._store = self._store or open_store(self.home.root)
            self._store.unended_runs()
        except CollegiumError:
            found.append("The store cannot be read.")
        try:
            self.ask_flower()
        except Exception:  # whatever Flower's database raises
            found.append("Flower's database cannot be read.")
        return found
