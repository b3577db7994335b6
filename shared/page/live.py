"""Pages that follow what happens, by server-sent events: one reader for all of them, and one rendering of each change.

A page is sent a part when it differs from what it was sent last: one which is slow, or was away, gets the latest,
and nothing piles up for it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress

from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from shared.errors import plain
from shared.page.threads import in_thread

log = logging.getLogger("collegium.page")
LOOK_SECONDS = 2.0
"""Between two looks, while a page is open."""
BEAT_SECONDS = 15.0
"""Without a change, a line is sent that says nothing, so that both ends notice when the other has gone."""
NOTHING = ": \n\n"
MOST_STREAMS = 64
Look = Callable[[], Mapping[str, str]]
"""The parts of a page as they are now, HTML by the id of the element that they are for. Called in a thread."""


class Live:
    """What all pages that follow one thing are sent.

    Args:
        look: Reads and renders; what it raises is left for the next look.
        pause: Seconds between two looks.
    """

    def __init__(self, look: Look, pause: float = LOOK_SECONDS) -> None:
        self._look, self._pause = look, pause
        self._parts: dict[str, tuple[int, str]] = {}
        self._version, self._followers = 0, 0
        self._changed = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    @property
    def followed(self) -> bool:
        """Whether a page follows."""
        return self._followers > 0

    def stream(self, good: Callable[[], bool]) -> StreamingResponse:
        """What one page is sent, until it goes.

        Args:
            good: Whether the page may still be sent something.

        Raises:
            HTTPException: Too many follow.
        """
        if self._followers >= MOST_STREAMS:
            raise HTTPException(503, "Too many pages are open.")
        return StreamingResponse(self._messages(good), media_type="text/event-stream")

    async def _messages(self, good: Callable[[], bool]) -> AsyncIterator[str]:
        self._followers += 1
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        seen = 0
        try:
            while good():
                changed, version = self._changed, self._version
                news = {name: html for name, (number, html) in self._parts.items() if number > seen}
                yield message(news) if news else NOTHING
                seen = version
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), BEAT_SECONDS)
        finally:
            self._followers -= 1

    async def _watch(self) -> None:
        """Look again and again while somebody follows."""
        failed = ""
        while self._followers:
            try:
                found = await in_thread(self._look)
                failed = ""
            except Exception as error:  # the next look may succeed; a page that follows for days outlives a failure
                found = {}
                if (failing := f"{type(error).__name__}: {error}") != failed:
                    log.warning("a page could not be made anew: %s", plain(failing))
                failed = failing
            news = {name: html for name, html in found.items() if self._parts.get(name, (0, ""))[1] != html}
            if news:
                self._version += 1
                self._parts |= {name: (self._version, html) for name, html in news.items()}
                self._changed.set()
                self._changed = asyncio.Event()
            await asyncio.sleep(self._pause)


def message(parts: Mapping[str, str]) -> str:
    """One server-sent event: every part takes the place of what is in the element of its name."""
    html = "".join(
        f'<hx-partial hx-target="#{name}" hx-swap="innerHTML">{part}</hx-partial>' for name, part in parts.items()
    )
    return "".join(f"data: {line}\n" for line in html.splitlines()) + "\n"
