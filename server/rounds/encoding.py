"""What each institution is sent of a state: the arrays that it holds, at its rank, and what its frozen weights lack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from server.aggregation.mixed_ranks import narrow
from server.rounds.run import Run
from shared import codec
from shared.adapter import base_codec, is_received, of_tasks
from shared.model.allocation import cut, ranks_left
from shared.model.lowrank import add_up
from shared.state import Broadcast, pack_broadcast, pack_steps


@dataclass(frozen=True)
class BaseSteps:
    """What an institution's frozen weights must be moved by; see `shared.protocol.TrainRequest`."""

    base: bytes = b""
    base_since: str = ""
    base_version: str = ""


def encode_state(
    run: Run,
    model: Mapping[str, np.ndarray],
    round: int,
    names: Sequence[str],
    control: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> dict[str, bytes]:
    """What each institution needs of a model, encoded once for all that hold the same tasks at the same rank.

    The round that the model comes from decides how a codec rounds by chance: the next round trains what was validated.
    Control variates, if any, go beside it.
    """
    received = {name: array for name, array in model.items() if is_received(name, run.federation.method)}
    if run.federation.adapter.prunes:
        received = cut(received, ranks_left(received))
    announced = run.announced
    kinds = {name: (frozenset(announced[name].records), announced[name].rank) for name in names}
    made = {
        (tasks, rank): codec.encode(
            pack_broadcast(Broadcast(narrow(of_tasks(received, tasks), rank), of_tasks(control, tasks))),
            run.federation.wire.coding_down,
            np.random.default_rng([run.federation.seed, round]),
        )
        for tasks, rank in set(kinds.values())
    }
    return {name: made[kind] for name, kind in kinds.items()}


def encode_base(run: Run, round: int, names: Sequence[str]) -> dict[str, BaseSteps]:
    """By institution, what its frozen weights lack of those after a round, as far as is known of them."""
    if not run.federation.method.folds:
        return dict.fromkeys(names, BaseSteps())
    since = {name: _base_round(run, run.seats[name].base, round) for name in names}
    made = {
        first: BaseSteps(_steps(run, first, round), run.base_version(first) if first else "", run.base_version(round))
        for first in set(since.values())
    }
    return {name: made[first] for name, first in since.items()}


def _base_round(run: Run, version: str, most: int) -> int:
    """The round that a version is of; 0, where everybody can begin, if it is of another run or a later round."""
    return next((round for round in range(most, 0, -1) if run.base_version(round) == version), 0)


def _steps(run: Run, first: int, last: int) -> bytes:
    """The steps of the rounds after `first` up to `last`, added up; from the start, with what the run has inherited."""
    numbers = range(first + 1 if first else 0, last + 1)
    rounds = [run.store.load_checkpoint(run.run_id, number).steps for number in numbers]
    if last == first and not any(rounds):
        return b""
    return codec.encode(pack_steps(add_up(rounds)), base_codec(run.federation.wire.down))
