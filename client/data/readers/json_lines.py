"""JSON Lines: an object a line."""

import json
from typing import Any

from client.data.readers.base import BadRow, Rows, Source, as_object, not_text, open_text


def read(source: Source) -> Rows:
    """The objects of a file; place is the line."""
    with open_text(source.path, source.how.encoding) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield number, not_text(line, source.how.encoding) or parse(line)


def parse(line: str) -> dict[str, Any] | BadRow:
    """The object of one line."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        if line.lstrip()[:1] == "[":
            return BadRow("expected a JSON object, but a list begins; write one object per line (jq -c '.[]')")
        return BadRow(f"expected a JSON object, but {error.msg.lower()}")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a list in a list in a list ...
        return BadRow(f"expected a JSON object that can be read, but {error}")
    return as_object(value, line)
