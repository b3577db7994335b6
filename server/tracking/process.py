"""Tells trackers of runs: `python -m server.tracking.process --home DIR`. Whatever fails here fails no run."""

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from server.home import open_home, read_settings
from server.opening import open_store
from server.tracking.following import Follower
from server.tracking.trackers import open_trackers
from shared.errors import LONGEST_LINE, CollegiumError, StoreError, plain
from shared.process.files import private_umask
from shared.process.parent import tell_parent
from shared.watching.logs import set_up

LOOK_SECONDS = 2.0
log = logging.getLogger("server.tracking")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the child process; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m server.tracking.process", description="Tells trackers of runs")
    parser.add_argument("--home", type=Path, required=True, metavar="DIR", help="the coordinator's folder")
    root: Path = parser.parse_args(arguments).home
    private_umask()
    set_up()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        home = open_home(root)
        trackers = open_trackers(home, read_settings(home).tracking)
        with open_store(root) as store:
            follower = Follower(store, trackers, home.state / "tracking.json", log.warning)
            while not stop.wait(LOOK_SECONDS):
                try:
                    follower.look()
                except StoreError as error:
                    log.warning("%s", plain(str(error), LONGEST_LINE))
    except CollegiumError as error:
        print(f"error: {plain(str(error), LONGEST_LINE)}", file=sys.stderr, flush=True)
        tell_parent(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
