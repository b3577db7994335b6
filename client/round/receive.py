"""From a request to a loaded model: all that came is checked before anything is touched."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from client.learner import Learner
from client.policy import check_tasks
from client.round.states import Received, check_state, read_state
from shared.adapter import of_tasks, set_some, set_state, task_of, tensors
from shared.codec import Arrays, Shapes
from shared.federation import Federation
from shared.model.multitask import MultiTaskModel
from shared.protocol import EvaluateRequest, TrainRequest
from shared.state import Broadcast


@dataclass(frozen=True)
class Checked:
    """A state that may be loaded."""

    came: Received
    arrays: Arrays
    """What came, at the federation's shapes."""
    own: Arrays
    """What the institution keeps of the state itself."""


@dataclass(frozen=True)
class _Came:
    """All that a checked state depends on, where the institution keeps nothing of it and the whole adapter came."""

    state: bytes
    base: bytes
    expected: Sequence[Shapes]
    federation: Federation
    model: MultiTaskModel

    def is_same(self, other: "_Came") -> bool:
        """Whether the other's is the same state."""
        if self.model is not other.model or self.federation is not other.federation:
            return False
        return (self.state, self.base, self.expected) == (other.state, other.base, other.expected)


class _Last:
    """What was checked last: a round begins with the state that was scored, in a simulation at every institution."""

    def __init__(self) -> None:
        self._of: _Came | None = None
        self._checked: Checked | None = None

    def get(self, came: _Came) -> Checked | None:
        """What it became, if it was the last."""
        return self._checked if self._of and self._of.is_same(came) else None

    def put(self, came: _Came, checked: Checked) -> None:
        """Keep it, from now on for reading only."""
        if all(name in checked.arrays for name in tensors(came.model) if task_of(name) is None):
            for array in (*checked.arrays.values(), *checked.came.arrays()):
                array.flags.writeable = False
            self._of, self._checked = came, checked


_last = _Last()


def receive(learner: Learner, request: TrainRequest | EvaluateRequest, own: Arrays) -> Checked:
    """The state in a request; neither the model, nor a record, nor a budget has been touched yet.

    Args:
        learner: Asked by the request.
        request: From the coordinator.
        own: What the institution keeps of the state itself.

    Raises:
        ProtocolError: What came does not fit the agreement, or could not be computed with.
        PolicyError: It is about a task that may not take part.
    """
    controlled = isinstance(request, TrainRequest) and learner.federation.training.scaffold
    control = learner.shapes_sent(request.round) if controlled else {}
    expected = [of_tasks(shapes, learner.data) for shapes in (learner.shapes_received(), control)]
    asked = _Came(request.state, request.base, expected, learner.federation, learner.model)
    if not own and (known := _last.get(asked)):
        check_tasks(learner.policy, known.came.tasks)
        return known
    came = read_state(request, learner.federation, *expected)
    check_tasks(learner.policy, came.tasks)
    checked = Checked(came, check_state(came, learner.model, learner.federation, control, own), own)
    if not own:
        _last.put(asked, checked)
    return checked


def load(learner: Learner, request: TrainRequest | EvaluateRequest, state: Checked) -> Broadcast[np.ndarray]:
    """Load a state into the model; what the round begins with, of the adapter and the institution's own heads."""
    if request.base_version:
        learner.model.base.move(state.came.steps, since=request.base_since, version=request.base_version)
    set_state(learner.model, state.arrays, received=learner.federation.method)
    set_some(learner.model, state.own)
    came, tasks = state.came.state, learner.data.keys()
    return Broadcast(of_tasks({**came.model, **state.own}, tasks), of_tasks(came.control, tasks))
