"""What stands in the place of personal data: another name, place, date or number of the same form.

The same word of the same owner always becomes the same other word, in all texts and tasks, and for another owner
another one: which one is decided by a keyed hash (BLAKE2b, RFC 7693), so that nobody without the site's key can go
back, and records that come or go change nothing for the others. Dates are moved by a number of days that is the owner's
own, so that the time between two of them stays. No replacement has white space in it, and every word gives one word.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from client.data.masking.options import Kind

_NAMES = """
Abbott Adler Almond Archer Ashby Avery Baker Barlow Barrow Beck Benson Blake Bolton Bowen Brook Burton Byrne
Calder Carver Chase Clay Cole Conrad Corbin Crane Dale Darby Dawson Denver Drake Eaton Ellis Emery Everett
Fenton Finch Fisher Fletcher Forbes Foster Frost Gale Garner Gibson Glover Grant Graves Hadley Hale Harlow
Harper Hart Hayes Heath Holden Hollis Hudson Hunter Irving Jarvis Jordan Keaton Kendall Kirby Lane Larkin Lawson
Leland Logan Lowell Marlow Mason Mercer Merritt Milton Morgan Nash Nelson Nolan Norris Oakley Osborn Palmer
Parker Perry Porter Quincy Ramsey Reed Rhodes Rowan Sawyer Sheldon Spencer Sterling Sutton Tanner Temple Thorne
Turner Vance Walker Warren Webster
"""
_PLACES = """
Ashford Bradwell Brookfield Carlton Clifton Dunmore Eastbrook Fairview Glenwood Greenfield Hartwell Hillcrest
Kingsley Lakewood Linden Maplewood Northgate Oakdale Ridgeway Riverton Rosedale Silverton Southfield Stanton
Summerfield Thornton Waterford Westbrook Whitfield Winfield Woodside Yardley
"""
_MONTHS = """
january february march april may june july august september october november december
"""
_STREETS = """
street st road rd avenue ave lane ln drive dr square court strasse weg platz gasse allee
"""
NAMES, PLACES, MONTHS = _NAMES.split(), _PLACES.split(), _MONTHS.split()
STREETS = frozenset(_STREETS.split())
WORD = re.compile(r"[^\W\d_]+(?:[-\u2019'][^\W\d_]+)*")
DIGITS = re.compile(r"\d+")
DATES = (
    re.compile(r"(?P<y>\d{4})\s*[-./]\s*(?P<m>\d{1,2})\s*[-./]\s*(?P<d>\d{1,2})"),
    re.compile(r"(?P<d>\d{1,2})\s*[-./]\s*(?P<m>\d{1,2})\s*[-./]\s*(?P<y>\d{4})"),
    re.compile(r"(?P<d>\d{1,2})(?:st|nd|rd|th|\.)?\s+(?P<m>[^\W\d_]{3,9})\.?,?\s+(?P<y>\d{4})"),
    re.compile(r"(?P<m>[^\W\d_]{3,9})\.?\s+(?P<d>\d{1,2})(?:st|nd|rd|th)?\s*,?\s+(?P<y>\d{4})"),
)
FARTHEST = 365
"""Days by which dates are moved at most, at least one."""


@dataclass(frozen=True)
class Edit:
    """One replacement in a text."""

    start: int
    """First character that goes."""
    end: int
    """The one after the last."""
    text: str
    """What stands there instead."""


def replacements(kind: Kind, found: str, owner: str, key: bytes) -> Iterator[Edit]:
    """How a piece of personal data is replaced; places are those in the piece.

    Args:
        kind: What it is.
        found: Its text.
        owner: Whose it is.
        key: The site's secret.
    """
    if kind == "contact":
        name = _pick(NAMES, "contact", found.casefold(), owner, key).lower()
        yield Edit(0, len(found), f"{name}@example.org" if "@" in found else f"https://{name}.example.org/")
    elif kind == "date" and (moved := _moved(found, owner, key)):
        yield from moved
    else:
        yield from _words(kind, found, owner, key)
        for match in DIGITS.finditer(found):
            yield Edit(*match.span(), _digits(match[0], owner, key))


def _words(kind: Kind, found: str, owner: str, key: bytes) -> Iterator[Edit]:
    small = not any(match[0][0].isupper() for match in WORD.finditer(found))  # as all of a text may be
    for match in WORD.finditer(found):
        word, plain = match[0], match[0].casefold()
        if kind == "name":
            stem = re.sub(r"[\u2019']s$", "", word)
            yield Edit(match.start(), match.start() + len(stem), name_for(stem, owner, key))
        elif kind == "place" and (small or word[0].isupper()) and plain not in STREETS:
            yield Edit(*match.span(), _pick(PLACES, "place", plain, owner, key))
        elif kind == "date" and plain in MONTHS:
            yield Edit(*match.span(), _pick(MONTHS, "month", plain, owner, key).capitalize())


def name_for(word: str, owner: str, key: bytes) -> str:
    """The name that stands for a word of a name: a letter for an initial, in capitals for capitals."""
    name = _pick(NAMES, "name", word.casefold(), owner, key)
    return name[0] if len(word) == 1 else name.upper() if word.isupper() else name


def _digits(found: str, owner: str, key: bytes) -> str:
    """As many other digits, none before others if none was."""
    number = int.from_bytes(_hash("digits", found, owner, key), "big")
    digits = str(number % 10 ** len(found)).zfill(len(found))
    return digits if found[0] == "0" or digits[0] != "0" else f"{1 + number % 9}{digits[1:]}"


def _moved(found: str, owner: str, key: bytes) -> list[Edit]:
    """The parts of a date that can be read, moved by the owner's days; nothing if there is none."""
    for pattern in DATES:
        if (match := pattern.search(found)) and (day := _date(match)):
            days = 1 + int.from_bytes(_hash("days", "", owner, key), "big") % FARTHEST
            if day <= date.min + timedelta(days=days):  # "0001-01-01", which some programs write for none
                return []
            day -= timedelta(days=days)
            month = match["m"]
            said = {
                "y": f"{day.year:04}",
                "m": f"{day.month:0{len(month)}}" if month.isdecimal() else _like(MONTHS[day.month - 1], month),
                "d": f"{day.day:0{len(match['d'])}}",
            }
            return [Edit(*match.span(part), text) for part, text in said.items()]
    return []


def _date(match: re.Match[str]) -> date | None:
    month = match["m"].casefold()
    number = int(month) if month.isdecimal() else 1 + next((i for i, m in enumerate(MONTHS) if m.startswith(month)), -1)
    try:
        return date(int(match["y"]), number, int(match["d"]))
    except ValueError:
        return None


def _like(month: str, written: str) -> str:
    """A month's name as another one was written: in full or cut."""
    cut = month[: len(written)] if written.casefold() not in MONTHS else month
    return cut.capitalize() if written[0].isupper() else cut


def _pick(words: Sequence[str], purpose: str, word: str, owner: str, key: bytes) -> str:
    return words[int.from_bytes(_hash(purpose, word, owner, key), "big") % len(words)]


def _hash(purpose: str, word: str, owner: str, key: bytes) -> bytes:
    text = "\0".join((purpose, owner, word)).encode(errors="surrogatepass")
    return hashlib.blake2b(text, key=key, person=b"mask", digest_size=8).digest()
