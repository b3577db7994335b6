"""What changes while a server runs: certificates that end, and the federation file."""

import threading
import time
from collections.abc import Callable

from server.enrolment.certificates import keep_good, look
from server.home import ServerHome, ServerSettings
from shared.errors import CollegiumError
from shared.watching.edited import Watched

WATCH_SECONDS = 5.0
"""Between two looks whether the federation file has changed."""
CERTIFICATE_SECONDS = 6 * 3600.0
"""Between two looks whether a certificate ends soon."""


def look_after(
    home: ServerHome, settings: ServerSettings, done: threading.Event, announce: Callable[[str], None]
) -> None:
    """Renew the server certificate before it ends, and say what else needs somebody, until `done` is set."""
    agreement, looked, said = Watched(home.federation_file), -CERTIFICATE_SECONDS, set[str]()
    while True:
        if time.monotonic() - looked >= CERTIFICATE_SECONDS:
            looked = time.monotonic()
            found = _certificates(home, settings)
            for text in found:
                if text not in said:
                    announce(text)
            said = set(found)
        if change := agreement.change():
            announce(f"{change}: the next run is under the new one, which every institution has to approve.")
        if done.wait(WATCH_SECONDS):
            return


def _certificates(home: ServerHome, settings: ServerSettings) -> list[str]:
    """What was renewed, what ends soon, or why neither can be told."""
    try:
        return [text for text in (keep_good(home, settings), *look(home).warnings()) if text]
    except (CollegiumError, OSError) as error:
        return [str(error)]
