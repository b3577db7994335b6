"""What a service manager is told: that the service is up, and every now and then that it is not stuck.

The protocol is `sd_notify(3)`: datagrams of lines to the socket that `NOTIFY_SOCKET` names. Without it nothing is said.
"""

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress

LEAST_SECONDS = 0.5


def tell(line: str) -> None:
    """Tell the service manager, if there is one, for example `READY=1`; nobody minds if it does not listen."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as speaker:
        speaker.sendto(line.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)


class Watchdog:
    """Says that this process is alive, three times in the time that the manager gives it.

    Args:
        clock: Seconds; a test may pass its own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._due = clock, clock()
        self._pause: float | None = None
        with suppress(KeyError, ValueError):
            if os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
                self._pause = max(LEAST_SECONDS, int(os.environ["WATCHDOG_USEC"]) / 3e6)

    def look(self) -> None:
        """Say so, if it is time."""
        if self._pause is not None and self._clock() >= self._due:
            self._due = self._clock() + self._pause
            tell("WATCHDOG=1")
