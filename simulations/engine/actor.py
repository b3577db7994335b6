"""What an actor of Flower's Simulation Runtime does: answer for whichever institution the next message is to.

An actor keeps a model and the records of every institution that it has answered for. What an institution remembers
from round to round cannot stay there, since the next message may reach another actor: it travels in `Context.state`.
"""

import pickle
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from client.app import build_app
from client.learner import Memory
from client.privacy.accounting import Mechanism
from client.site import Site
from shared import codec
from shared.adapter import base_codec
from shared.errors import ProtocolError
from shared.federation import Federation
from shared.fields import Scored
from shared.flower.simulation import PARTITION_ID_KEY
from shared.model.lora import Base
from shared.model.multitask import MultiTaskModel
from shared.process.memory import keep_few_kernels
from shared.protocol import EvaluateRequest, TrainRequest, decode
from shared.state import unpack_steps
from simulations.experiment import Experiment, open_sites

STATE = "memory"
"""Under which an institution's memory lies in its context's state."""


@dataclass(frozen=True)
class Move:
    """A step of the frozen weights that an institution was sent (`TrainRequest`)."""

    base: bytes
    base_since: str
    base_version: str


@dataclass
class Remembered:
    """What an institution knows beside its files, between two messages."""

    memory: Memory
    trained: list[Mechanism] = field(default_factory=list)
    """`Account.taken`."""
    scored: dict[Scored, list[Mechanism]] = field(default_factory=dict)
    """`Evaluations.taken`."""
    moves: list[Move] = field(default_factory=list)
    """From the backbone's weights to those that it has, one after the other."""


class InstitutionApp(ClientApp):
    """The ClientApp of all virtual institutions; Ray sends it to an actor as the name of a file.

    Args:
        file: A written `Experiment`; the node's partition is the place of an institution in it.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return InstitutionApp, (self.file,)

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer one message."""
        return _actor(self.file).answer(message, context)


class Actor:
    """One process of the runtime."""

    def __init__(self, experiment: Experiment) -> None:
        keep_few_kernels()
        self._experiment = experiment
        self._names = list(experiment.institutions)
        self._models: dict[int, MultiTaskModel] = {}
        self._sites: dict[str, Site] = {}

    def answer(self, message: Message, context: Context) -> Message:
        """Answer one message for an institution as it was when it last answered, wherever that was."""
        site = self._site(self._names[int(str(context.node_config[PARTITION_ID_KEY]))])
        known = recall(context, site)
        move = _move_of(message)
        go_back(site.model.base, known.moves, move, site.federation)
        present = replace(
            site,
            memory=known.memory,
            account=site.account and replace(site.account, taken=known.trained),
            evaluations=site.evaluations and replace(site.evaluations, taken=known.scored),
        )
        reply = build_app(lambda _: present)(message, context)
        if move and move.base_version == site.model.base.version:
            _append(known.moves, move)
        remember(context, known)
        return reply

    def _site(self, name: str) -> Site:
        if name not in self._sites:
            self._sites |= open_sites(self._experiment, self._models, [name])
        return self._sites[name]


def recall(context: Context, site: Site) -> Remembered:
    """What an institution remembers; at its first message, what it begins with."""
    if STATE not in context.state:
        return Remembered(Memory(initial=site.memory.initial))
    known = pickle.loads(context.state.config_records[STATE]["pickle"])  # type: ignore[arg-type]
    assert isinstance(known, Remembered)
    return known


def remember(context: Context, known: Remembered) -> None:
    """Leave it to whichever actor answers next."""
    context.state[STATE] = ConfigRecord({"pickle": pickle.dumps(known)})


def go_back(base: Base, moves: list[Move], coming: Move | None, federation: Federation) -> None:
    """Give the frozen weights the version that the institution has, unless what is asked for is there already.

    The steps are repeated one by one: weights are then to the bit what they are where one process does everything.
    """
    versions = ["", *(move.base_version for move in moves)]
    if base.version == versions[-1] or (coming and base.version == coming.base_version):
        return
    if base.version not in versions:
        base.reset()
    for move in moves[versions.index(base.version) :]:
        steps = unpack_steps(codec.decode(move.base, base_codec(federation.wire.down))) if move.base else {}
        base.move(steps, since=move.base_since, version=move.base_version)


def _append(moves: list[Move], move: Move) -> None:
    if move.base_version in [known.base_version for known in moves]:
        return
    if not move.base_since:
        moves.clear()
    moves.append(move)


def _move_of(message: Message) -> Move | None:
    """The step of the frozen weights that a message brings."""
    kinds: tuple[type[TrainRequest | EvaluateRequest], ...] = (TrainRequest, EvaluateRequest)
    try:
        request = decode(message.content, *kinds)
    except ProtocolError:
        return None
    return Move(request.base, request.base_since, request.base_version) if request.base_version else None


@cache
def _actor(file: Path) -> Actor:
    return Actor(Experiment.model_validate_json(file.read_bytes()))
