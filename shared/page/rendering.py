"""How pages are made: Jinja2 templates that escape all they are given, and how numbers and times are written."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"
DASH = "–"  # noqa: RUF001
UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"
SIZES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


class Pages:
    """The templates of one page, and those that both have.

    Args:
        folder: Its own templates.
        root, entry: See `shared.page.guard.Place`.
    """

    def __init__(self, folder: Path, root: str, entry: str) -> None:
        self._environment = Environment(
            loader=FileSystemLoader([folder, FOLDER / "templates"]),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=printable,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters |= {
            "size": size,
            "duration": duration,
            "number": number,
            "score": score,
            "moment": moment,
            "lines": lines,
        }
        self._environment.globals |= {"root": root, "entry": entry}

    def render(self, template: str, values: Mapping[str, Any]) -> str:
        """A page, or a part of one."""
        return self._environment.get_template(template).render(values)


def printable(value: Any) -> Any:
    """What a template shows of a value: a dash for None, and no character that steers a terminal or turns a line round.

    Markup that Jinja2 has made itself passes as it is; all else is escaped after this.
    """
    if value is None:
        return DASH
    if isinstance(value, str) and not isinstance(value, Markup) and not value.isprintable():
        return "".join(c if c.isprintable() or c == "\n" else UNPRINTABLE for c in value)
    return value


def size(count: float | None) -> str:
    """Bytes as people read them."""
    if count is None:
        return DASH
    for unit, name in SIZES:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} B"


def duration(seconds: float | None) -> str:
    """Seconds as people read them."""
    if seconds is None:
        return DASH
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def number(value: float | None, digits: int = 2) -> str:
    """A number with so many digits after the point."""
    return DASH if value is None else f"{value:,.{digits}f}"


def score(value: float | None) -> str:
    """A score, three digits after the point."""
    return number(value, 3)


def moment(value: str | datetime | None) -> str:
    """A time in UTC, to the second."""
    if value is None:
        return DASH
    try:
        when = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except ValueError:
        return value if isinstance(value, str) else DASH
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if when.tzinfo else when.strftime("%Y-%m-%d %H:%M:%S")


def lines(text: str) -> list[str]:
    """A text, line by line."""
    return text.splitlines()
