"""Makes JSON of the lines that a process prints: `python -I -S frame.py LOG FIELDS < lines`.

A program of its own, started beside a child whose output is to be JSON lines: whatever prints there, be it Flower, a
grandchild or a crash in native code, every line of the log is one object. Lines that are objects already stay. It loads
nothing but the standard library, and ends with the last process that could print.
"""

import datetime
import json
import re
import sys

TEXT = re.compile(
    r"(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ )?(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) *:? +"
    r"(?:(?P<logger>[a-z_][\w.]*): )?(?P<event>.*)"
)
"""How Flower, uvicorn and Collegium write lines of text."""


def framed(line: str, fields: dict[str, str], now: str) -> str:
    """A line as one JSON object.

    Args:
        line: Without its end.
        fields: What is true of all lines.
        now: The time, for lines that name none.
    """
    if line.startswith('{"time": '):
        try:
            return json.dumps({**json.loads(line), **fields}, ensure_ascii=False)
        except ValueError:
            pass
    found = TEXT.fullmatch(line)
    said = {"level": found["level"].lower(), "event": found["event"]} if found else {"level": "info", "event": line}
    logger = {"logger": found["logger"]} if found and found["logger"] else {}
    return json.dumps({"time": now, **said, **logger, **fields}, ensure_ascii=False)


def main(log: str, fields: dict[str, str]) -> None:
    """Write until nobody can print any more."""
    with open(log, "a", encoding="utf-8") as file:
        for raw in sys.stdin.buffer:
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            if line.strip():
                now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
                file.write(framed(line, fields, now) + "\n")
                file.flush()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
