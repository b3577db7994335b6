"""How far training is, for the site's own log."""

import logging
import time

log = logging.getLogger("collegium.client")
SECONDS = 10.0
"""How often it is said."""


class Progress:
    """A `trainer.Progress` that says now and then how many steps are done.

    Args:
        what: Whose steps they are.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._said = time.monotonic()

    def __call__(self, done: int, steps: int) -> None:
        """Called after every step."""
        now = time.monotonic()
        if done == steps or now - self._said >= SECONDS:
            log.info("%s: step %d of %d", self._what, done, steps)
            self._said = now
