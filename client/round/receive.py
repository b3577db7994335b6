"""From a request to a loaded model: all that came is checked before anything is touched."""

from dataclasses import dataclass

import numpy as np

from client.learner import Learner
from client.policy import check_tasks
from client.round.states import Received, check_state, read_state
from shared.adapter import of_tasks, set_some, set_state
from shared.codec import Arrays
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
    came = read_state(request, learner.federation, *expected)
    check_tasks(learner.policy, came.tasks)
    return Checked(came, check_state(came, learner.model, learner.federation, control, own), own)


def load(learner: Learner, request: TrainRequest | EvaluateRequest, state: Checked) -> Broadcast[np.ndarray]:
    """Load a state into the model; what the round begins with, of the adapter and the institution's own heads."""
    if request.base_version:
        learner.model.base.move(state.came.steps, since=request.base_since, version=request.base_version)
    set_state(learner.model, state.arrays, received=learner.federation.method)
    set_some(learner.model, state.own)
    came, tasks = state.came.state, learner.data.keys()
    return Broadcast(of_tasks({**came.model, **state.own}, tasks), of_tasks(came.control, tasks))
