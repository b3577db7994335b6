"""The way of a round's update out of a site: a list of named steps, as the agreement says (`steps_of`).

    align       turn the factors towards those received (FedRot-LoRA)
    prune       leave out components that the layers have lost, and report how much the others matter (AdaLoRA)
    subtract    new minus received, of what the method sends; what it keeps stays at home
    feedback    add what `top-k` left out before, and keep what it leaves out now
    control     report by how much the control variates change (SCAFFOLD)
    gate        encode, check against the agreement and the policy, decode as the coordinator will
    remember    keep the control variates as the coordinator now knows them

A step is a plain function that takes a `Leaving` and returns the next one; the last has a parcel, and what stays.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

import numpy as np

from client.leaving.gate import Parcel, pack
from client.policy import Policy
from client.round.keep import LocalState
from client.train import rotation
from client.train.drift import renew
from shared import codec
from shared.adapter import difference, is_kept, is_sent
from shared.codec import Arrays, Shapes
from shared.federation import Federation
from shared.model.allocation import cut, cut_importance, ranks_of, update_shapes
from shared.state import Broadcast, Update


@dataclass(frozen=True)
class Trained:
    """A round that a site has trained."""

    federation: Federation
    policy: Policy
    tasks: Collection[str]
    """Whose heads the site has."""
    round: int
    seed: int
    """Of the rounding of `int8` and `int4`."""
    received: Broadcast[np.ndarray]
    """What the round began with."""
    variates: Arrays
    """The site's own, c_i."""
    importance: Arrays
    """By layer, how much each component matters (AdaLoRA)."""
    rates: tuple[float, float]
    """Sum of the learning rates of the steps: of the adapter, and of the heads."""


@dataclass(frozen=True)
class Leaving:
    """An update on its way out; every step returns it changed."""

    trained: Trained
    state: Arrays
    """What the model is after the round."""
    shapes: Update[tuple[int, ...]]
    """Of all that the agreement lets out, with the heads of all tasks."""
    update: Update[np.ndarray] = field(default_factory=lambda: Update({}))
    kept: LocalState = field(default_factory=LocalState)
    """What stays: at first what an earlier round has left."""
    parcel: Parcel | None = None
    """What leaves, once it has passed the gate."""


Step = Callable[[Leaving], Leaving]


def leave(trained: Trained, state: Arrays, shapes: Shapes, kept: LocalState) -> tuple[Parcel, LocalState]:
    """Take a round's update through all steps of its agreement.

    Args:
        trained: The round.
        state: What the model is after it.
        shapes: Of what institutions send of the model in this round, with the heads of all tasks.
        kept: What an earlier round of the run has left here.

    Returns:
        What leaves, and what stays.

    Raises:
        PolicyError: It may not leave; see `gate.pack`.
    """
    leaving = Leaving(trained, state, Update(shapes), kept=kept)
    for step in steps_of(trained.federation):
        leaving = step(leaving)
    assert leaving.parcel
    return leaving.parcel, leaving.kept


def steps_of(federation: Federation) -> list[Step]:
    """The steps under an agreement, in order."""
    scaffold = federation.training.scaffold
    steps: list[tuple[Step, bool]] = [
        (align, federation.method.aligns),
        (prune, federation.adapter.prunes),
        (subtract, True),
        (feedback, federation.wire.up == "top-k"),
        (control, scaffold),
        (gate, True),
        (remember, scaffold),
    ]
    return [step for step, agreed in steps if agreed]


def align(leaving: Leaving) -> Leaving:
    """Turn the factors of every layer towards those received; products stay what they are."""
    trained = leaving.trained
    return replace(leaving, state=rotation.align(leaving.state, trained.received.model, round=trained.round))


def prune(leaving: Leaving) -> Leaving:
    """Leave out the components that the layers had lost when the round began, and send the importance of the others."""
    ranks = ranks_of(leaving.trained.received.model)
    return replace(
        leaving,
        state=cut(leaving.state, ranks),
        shapes=update_shapes(leaving.shapes.model, ranks),
        update=replace(leaving.update, importance=cut_importance(leaving.trained.importance, ranks)),
    )


def subtract(leaving: Leaving) -> Leaving:
    """Take what was received from what is sent; what the method keeps stays as it is."""
    trained, method = leaving.trained, leaving.trained.federation.method
    moved = difference(leaving.state, trained.received.model)
    sent = {name: array for name, array in moved.items() if is_sent(name, method, trained.round)}
    home = {name: leaving.state[name] for name in trained.received.model if is_kept(name, method.keeps)}
    return replace(leaving, update=replace(leaving.update, model=sent), kept=replace(leaving.kept, home=home))


def feedback(leaving: Leaving) -> Leaving:
    """Add what `top-k` has left out before, and keep what it leaves out now."""
    coding = leaving.trained.federation.wire.coding_up
    sent, residual = codec.with_feedback(leaving.update.model, leaving.kept.residual, coding)
    return replace(leaving, update=replace(leaving.update, model=sent), kept=replace(leaving.kept, residual=residual))


def control(leaving: Leaving) -> Leaving:
    """Tell by how much the site's control variates change."""
    trained = leaving.trained
    changes = renew(trained.received.control, leaving.update.model, trained.rates)
    return replace(
        leaving,
        update=replace(leaving.update, control=changes),
        shapes=replace(leaving.shapes, control=leaving.shapes.model),
    )


def gate(leaving: Leaving) -> Leaving:
    """Encode what leaves, if it may."""
    trained = leaving.trained
    parcel = pack(
        leaving.update,
        shapes=leaving.shapes,
        tasks=trained.tasks,
        coding=trained.federation.wire.coding_up,
        policy=trained.policy,
        rng=np.random.default_rng(trained.seed),
    )
    return replace(leaving, parcel=parcel)


def remember(leaving: Leaving) -> Leaving:
    """Keep the site's control variates, changed by what the coordinator decodes."""
    assert leaving.parcel
    before, changes = leaving.trained.variates, leaving.parcel.update.control
    moved = {name: before.get(name, np.float32(0)) + change for name, change in changes.items()}
    return replace(leaving, kept=replace(leaving.kept, variates=before | moved))
