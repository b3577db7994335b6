"""What each step of training does beside the step itself: one hook per feature, built where the feature lives."""

import logging
import time
from collections.abc import Callable, Collection

from shared.model.multitask import MultiTaskModel

log = logging.getLogger("collegium.client")
SECONDS = 10.0
"""How often progress is logged."""


class Hook:
    """A feature's part in a round of training; each moment does nothing unless a subclass says what.

    A step has three of them: the gradient of the batch is there, it has been clipped, the optimizer has stepped. A step
    under [privacy] clips each owner's gradient and adds noise before the first one, so that no hook sees the gradient
    of a record.
    """

    remembers = False
    """Whether what it does in a step depends on earlier ones of the round, which cannot go on without them."""

    def begin(self, model: MultiTaskModel, tasks: Collection[str]) -> None:
        """Before the first step, with the state that the round begins with.

        Args:
            model: As it will be trained.
            tasks: Whose records there are.
        """

    def on_gradient(self) -> None:
        """The batch's gradient is in every trained parameter's `grad`; what is added to it is clipped with it."""

    def before_step(self) -> None:
        """It has been clipped; what is added to it is not."""

    def after_step(self, done: int, steps: int) -> None:
        """The optimizer has taken `done` of the round's `steps`."""


class Progress(Hook):
    """Tells how far training is.

    Args:
        tell: Called after every step with the steps done and the steps in all.
    """

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self._tell = tell

    def after_step(self, done: int, steps: int) -> None:
        """Tell."""
        self._tell(done, steps)


class LoggedProgress(Hook):
    """Logs now and then how far training is.

    Args:
        what: Whose steps they are.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._logged = time.monotonic()

    def after_step(self, done: int, steps: int) -> None:
        """Log, if it is time."""
        now = time.monotonic()
        if done == steps or now - self._logged >= SECONDS:
            log.info("%s: step %d of %d", self._what, done, steps)
            self._logged = now
