"""Sends one notice by apprise: `python -m shared.watching.sending < notice.json`; the marks that it did not reach.

A process of its own: apprise takes memory that a daemon has no use for, and a server that hangs keeps nobody else.
"""

import json
import sys
from importlib import import_module
from pathlib import Path

from shared.watching.notices import mark, urls_of


def main() -> None:
    """Read a notice, send it to each URL that is asked for, and print the marks of those that failed."""
    asked = json.load(sys.stdin)
    apprise = import_module("apprise")
    failed = []
    for url in urls_of(Path(asked["file"])):
        if asked["only"] is not None and mark(url) not in asked["only"]:
            continue
        service = apprise.Apprise()
        if not (service.add(url) and service.notify(title=f"Collegium: {asked['title']}", body=asked["text"])):
            failed.append(mark(url))
    print(json.dumps(failed))


if __name__ == "__main__":
    main()
