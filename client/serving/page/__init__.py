"""The page on which people try what is served."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.staticfiles import StaticFiles

from shared.page.rendering import STATIC, Pages

FOLDER = Path(__file__).parent
PAGES = Pages(FOLDER, "", "")


def page(tasks: Mapping[str, Any], *, asks: bool) -> str:
    """The page.

    Args:
        tasks: What it offers; where tokens are asked for it learns them from whoever shows one.
        asks: Whether they are.
    """
    return PAGES.render("try.html", {"tasks": tasks, "asks": asks})


class Static(StaticFiles):
    """What the house's pages look like, and what this one does."""

    def lookup_path(self, path: str) -> tuple[str, Any]:
        """Only the files of this page."""
        return super().lookup_path(path) if path in ("page.css", "icon.svg", "try.js", "try.css") else ("", None)


def static() -> StaticFiles:
    """The files of the page."""
    files = Static(directory=STATIC)
    files.all_directories = [*files.all_directories, FOLDER]
    return files
