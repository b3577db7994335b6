"""What all readers share: what they are asked, what a bad row is, and how text and JSON are read."""

import codecs
import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

from client.data.readers.options import AS_IT_IS, Reading
from shared.config import UTF16_MARKS
from shared.errors import DataError
from shared.fields import Split


@dataclass(frozen=True)
class Source:
    """What a reader reads."""

    path: Path
    how: Reading = AS_IT_IS
    split: Split = "train"
    lists: frozenset[str] = frozenset()
    """The fields of the task's records that hold a list."""


@dataclass(frozen=True)
class BadRow:
    """A row that is no record."""

    what: str
    """What was expected, and what came."""
    encoding: bool = False
    """Whether it is that the row is not in the encoding that is read."""


Place = int | str
"""Where a row stands: its line or row, from 1, or in words what else finds it."""
Rows = Iterator[tuple[Place, dict[str, Any] | BadRow]]
"""The place of each row, and the row, or what is wrong with it."""


def named(place: Place) -> str:
    """A place as it stands in a sentence."""
    return f"line {place}" if isinstance(place, int) else place


def open_text(path: Path, encoding: str = "utf-8") -> TextIO:
    """The file as text, unpacked if it ends in `.gz`; a wrong byte becomes a lone surrogate, for `not_text` to find."""
    opener: Callable[..., Any] = gzip.open if path.name.lower().endswith(".gz") else open
    if encoding == "utf-8":
        with opener(path, "rb") as stream:
            if stream.read(2) in UTF16_MARKS:
                raise DataError(
                    f"Expected UTF-8 text in {path}, but it is UTF-16; convert the file (iconv -f UTF-16 -t UTF-8), or "
                    'add encoding = "utf-16" to its [data] table.'
                )
        encoding = "utf-8-sig"
    return cast(TextIO, opener(path, "rt", encoding=encoding, errors="surrogateescape", newline=""))


def not_text(text: str, encoding: str = "utf-8") -> BadRow | None:
    """What is wrong with text that `open_text` has read; None if nothing is."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        if code not in range(0xDC80, 0xDD00):
            return BadRow(f"expected text, but there is half a character (surrogate U+{code:04X})", encoding=True)
        byte = bytes([code - 0xDC00])
        if codecs.lookup(encoding).name != "utf-8":
            return BadRow(f"expected {encoding}, but byte 0x{byte.hex()} came", encoding=True)
        other = byte.decode("cp1252", errors="replace")
        return BadRow(f"expected UTF-8, but byte 0x{byte.hex()} came (in Windows-1252 it is {other!r})", encoding=True)
    return None


def as_object(value: Any, text: str) -> dict[str, Any] | BadRow:
    """A value of JSON, if it is an object of whole characters.

    Args:
        value: The value.
        text: Its JSON.
    """
    if isinstance(value, list):
        return BadRow("expected a JSON object, but a list came; write one object per line (jq -c '.[]')")
    if not isinstance(value, dict):
        return BadRow(f"expected a JSON object, but a {type(value).__name__} came")
    # An escaped half of a character ("\\ud83d") is legal JSON, but no tokenizer reads it.
    half = not_text(json.dumps(value, ensure_ascii=False)) if "\\ud" in text.lower() else None
    return half or value
