"""A JSON array of objects, read an element at a time, whatever its length."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

from client.data.readers.base import Rows, Source, as_object, not_text, open_text
from shared.errors import DataError

CHUNK = 1 << 20
"""Characters that are read at a time; more where one element is longer."""
CUT = 16
"""An error this close to the end of what was read may be that the rest was not; no literal or escape is longer."""
DECODER = json.JSONDecoder()


def read(source: Source) -> Rows:
    """The objects of a file; place is the line on which an object begins."""
    with open_text(source.path, source.how.encoding) as stream:
        for line, text, value in elements(stream, source.path):
            yield line, not_text(text, source.how.encoding) or as_object(value, text)


def elements(stream: TextIO, path: Path, key: str | None = None) -> Iterator[tuple[int, str, Any]]:
    """Line, text and value of each element of an array.

    Args:
        stream: The file.
        path: What it is called.
        key: The array stands under this key of an object, not by itself.

    Raises:
        DataError: It is not such a file; after a broken element nothing can be found.
    """
    text = _Text(stream, path)
    if key is not None:
        _enter(text, key)
    text.take("[", "a JSON array")
    if text.peek() == "]":
        return
    while True:
        yield text.value()
        if text.peek() != ",":
            break
        text.take(",", "a comma")
    text.take("]", "a comma or the end of the array")


def _enter(text: "_Text", key: str) -> None:
    """Go to what stands under a key of an object."""
    text.take("{", "a JSON object")
    while text.peek() == '"':
        _, _, name = text.value()
        text.take(":", "a colon")
        if name == key:
            return
        text.value()
        if text.peek() == ",":
            text.take(",", "a comma")
    text.fail(f"expected the key {key!r}")


class _Text:
    """JSON that is read as far as need be."""

    def __init__(self, stream: TextIO, path: Path) -> None:
        self.stream, self.path = stream, path
        self.text, self.at, self.line, self.ended = "", 0, 1, False

    def peek(self) -> str:
        """The next character that is not white space; nothing at the end."""
        while True:
            rest = self.text[self.at : self.at + 1]
            if rest and not rest.isspace():
                return rest
            if rest:
                self.line += rest == "\n"
                self.at += 1
            elif self.ended:
                return ""
            else:
                self._more()

    def take(self, mark: str, what: str) -> None:
        """Pass over a mark; DataError if another stands there."""
        if (found := self.peek()) != mark:
            self.fail(f"expected {what}, but {repr(found) if found else 'the end of the file'} came")
        self.at += 1

    def value(self) -> tuple[int, str, Any]:
        """Line, text and value of what comes next."""
        self.peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
                if end < len(self.text) or self.ended:
                    break
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - CUT
                if self.ended or not cut:
                    line = self.line + self.text.count("\n", self.at, error.pos)
                    self.fail(f"expected JSON, but {error.msg.lower()}", line)
            except (ValueError, RecursionError) as error:
                self.fail(f"expected JSON that can be read, but {error}")
            self._more()
        line, text = self.line, self.text[self.at : end]
        self.line, self.at = line + text.count("\n"), end
        return line, text, value

    def fail(self, what: str, line: int | None = None) -> NoReturn:
        """Raise DataError with the place."""
        raise DataError(f"{self.path}, line {line or self.line}: {what}; what follows cannot be read.")

    def _more(self) -> None:
        chunk = self.stream.read(max(CHUNK, len(self.text) - self.at))
        self.text, self.at, self.ended = self.text[self.at :] + chunk, 0, not chunk
