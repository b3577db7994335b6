"""What changes beside a daemon while it runs: the federation file, the CA certificate, the days that are left."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from client.enrolment.channel import ending_soon
from client.institution import Institution
from client.service.endings import content_of
from shared.watching.edited import Watched

Announce = Callable[[str], None]
WATCH_SECONDS = 5.0
"""Between two looks whether files have changed that were read when the daemon started."""
CERTIFICATE_SECONDS = 12 * 3600.0
"""Between two looks whether a certificate ends soon."""


@contextmanager
def looking(institution: Institution, announce: Announce) -> Iterator[None]:
    """While the block lasts, announce what changes beside the daemon: the federation file, the CA, certificates."""
    done = threading.Event()
    thread = threading.Thread(target=_look_around, args=(institution, announce, done), name="looking", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(1.0)  # it may be waiting for a coordinator that does not answer


def _look_around(institution: Institution, announce: Announce, done: threading.Event) -> None:
    agreement, ca = Watched(institution.federation), institution.server.ca
    trusted, looked = content_of(ca), -CERTIFICATE_SECONDS
    while not done.wait(WATCH_SECONDS):
        if change := agreement.change():
            announce(
                f"{change}: this site answers under that from its first request on, if policy.federations allows it."
            )
        if (found := content_of(ca)) != trusted:
            trusted = found
            announce(f"{ca} has changed: start this daemon again to trust what is in it now.")
        if time.monotonic() - looked >= CERTIFICATE_SECONDS:
            looked = time.monotonic()
            with suppress(ValueError):
                for text in ending_soon(institution.server.address, trusted):
                    announce(text)
