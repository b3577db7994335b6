"""CoNLL's columns: a word a line with what is said of it, a blank line behind each sentence."""

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from client.data.readers.base import BadRow, Rows, Source, not_text, open_text

COMMENT = re.compile(r"#\s*([\w. -]+?)\s*=\s*(.*)")
DOCUMENT = "-DOCSTART-"


def read(source: Source) -> Rows:
    """The sentences of a file; place is the line of a sentence's first word.

    A sentence has `tokens`, the first column, and `tags`, the last; all columns stand beside under their numbers, from
    "0", so that `columns = { tags = "2" }` takes another. `# name = value` before a sentence is a column of that name;
    `document` counts what begins with -DOCSTART-, or is what `# newdoc id = ` says.
    """
    document = dict[str, Any]()
    for first, words, beside, wrong in _blocks(source):
        document = beside.pop(DOCUMENT, document)
        if wrong:
            yield from wrong
        elif words:
            yield first, _sentence(words, {**document, **beside})


def _blocks(source: Source) -> Iterator[tuple[int, list[list[str]], dict[str, Any], list[tuple[int, BadRow]]]]:
    """Of what stands between blank lines: its first line, its words, its comments, and lines that are wrong."""
    words, beside, first, wrong, documents = list[list[str]](), dict[str, Any](), 0, list[tuple[int, BadRow]](), 0
    with open_text(source.path, source.how.encoding) as stream:
        for number, line in enumerate(chain(stream, [""]), start=1):
            text = line.rstrip("\r\n")
            if not text.strip():
                if words:
                    yield first, words, beside, wrong
                    words, beside, wrong = [], {}, []
            elif not words and (comment := COMMENT.fullmatch(text)):
                name, value = comment.groups()
                beside |= {DOCUMENT: {"document": value}} if name in ("newdoc id", "newdoc") else {name: value}
            elif (columns := _columns(text, source.how.delimiter))[0] == DOCUMENT:
                documents += 1
                beside[DOCUMENT] = {"document": documents}
            else:
                first = first if words else number
                if bad := _wrong(columns, words, text, source.how.encoding):
                    wrong.append((number, bad))
                words.append(columns)


def _columns(text: str, delimiter: str | None) -> list[str]:
    if delimiter is None and "\t" in text:
        delimiter = "\t"
    return text.split(delimiter) if delimiter else text.split()


def _wrong(columns: list[str], before: list[list[str]], text: str, encoding: str) -> BadRow | None:
    if bad := not_text(text, encoding):
        return bad
    if len(columns) < 2:
        return BadRow(f"expected a word and its tag, but {len(columns)} column came")
    if before and len(columns) != len(before[0]):
        return BadRow(f"expected {len(before[0])} columns as in the sentence's first line, but {len(columns)} came")
    return None


def _sentence(words: list[list[str]], beside: dict[str, Any]) -> dict[str, Any]:
    columns = [list(column) for column in zip(*words, strict=True)]
    numbered = {str(number): column for number, column in enumerate(columns)}
    return {**beside, **numbered, "tokens": columns[0], "tags": columns[-1]}
