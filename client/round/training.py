"""An institution's answer to a request to train: one round, and the update that may leave."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import nullcontext

import numpy as np

from client.learner import Learner
from client.leaving import steps
from client.leaving.gate import Parcel
from client.privacy.account import parse_head
from client.round.receive import load, receive
from client.train import trainer
from client.train.drift import Correction
from client.train.hooks import Hook, LoggedProgress
from client.train.importance import Importance
from client.train.place import Place
from shared.adapter import get_state
from shared.codec import Arrays
from shared.errors import RefusalError
from shared.model.balancing import State
from shared.model.lora import set_trained
from shared.protocol import TrainReply, TrainRequest


def train(learner: Learner, request: TrainRequest, *, run: str | None = None) -> tuple[TrainReply, Parcel]:
    """Train a round; what is to stay at home has been kept when this returns.

    Args:
        learner: Its model is trained.
        request: From the coordinator.
        run: The run, for the ledger.

    Returns:
        The whole reply, before the policy reduces it; and the update in it.

    Raises:
        ProtocolError: The request does not fit the agreement, or comes out of turn.
        PolicyError, BudgetError: The policy, or what privacy may cost, does not allow it.
        RefusalError: The site lacks what it should have kept of the run.
        DataError: A loss is not finite.
    """
    memory, account = learner.memory, learner.account
    kept = memory.keep.before(request.run, request.round)
    state = receive(learner, request, memory.initial | kept.home)
    variates = _variates(learner, request)
    memory.asked.train(request.run, request.round)
    received = load(learner, request, state)
    set_trained(learner.model.encoder, learner.federation.method.factors(request.round))
    seed = trainer.derive_seed(learner.federation.seed, learner.name, request.round)
    importance = Importance(learner.model.encoder) if learner.federation.adapter.prunes else None
    known = parse_head(request.ledger) if request.ledger else None
    with account.spend(round=request.round, run=run, known=known) if account else nullcontext() as private:
        outcome = trainer.train(
            learner.model,
            learner.examples("train"),
            learner.federation.training,
            seed=seed,
            stage=trainer.Stage(request.round, request.rounds, _balance_before(memory.balances, request.round)),
            augment=learner.augment,
            private=private,
            hooks=[*_hooks(received.control, variates, importance), LoggedProgress(f"round {request.round}")],
            passing=learner.passing,
            place=Place(memory.place, _about(request)) if memory.place else None,
        )
    memory.balances[request.round] = outcome.balance
    trained = steps.Trained(
        federation=learner.federation,
        policy=learner.policy,
        tasks=learner.data.keys(),
        round=request.round,
        seed=seed,
        received=received,
        variates=variates,
        importance=importance.shares() if importance else {},
        rates=outcome.rates,
    )
    parcel, kept = steps.leave(trained, get_state(learner.model), learner.shapes_sent(request.round), kept)
    memory.keep.after(request.run, request.round, kept)
    reply = TrainReply(
        institution=learner.name,
        round=request.round,
        examples={task: len(learner.records(task, "train")) for task in learner.data},
        losses=outcome.losses,
        steps=outcome.steps,
        seconds=outcome.seconds,
        update=parcel.blob,
        epsilon=account.epsilon() if account else None,
        ledger=str(account.head) if account and account.head else None,
    )
    return reply, parcel


def _about(request: TrainRequest) -> bytes:
    """What decides a round's result beside the site's own records; the same if it is asked for again."""
    about = (request.spec_digest, request.run, request.round, request.taken, request.base_version)
    blobs = [hashlib.sha256(blob).hexdigest() for blob in (request.state, request.base)]
    return json.dumps([*about, *blobs]).encode()


def _hooks(control: Mapping[str, np.ndarray], variates: Arrays, importance: Importance | None) -> list[Hook]:
    """What the agreement makes of every step, beside what `[training]` says itself."""
    hooks: list[Hook] = [importance] if importance else []
    if control:
        off = {name: c - variates.get(name, np.float32(0)) for name, c in control.items()}
        hooks.append(Correction(off))
    return hooks


def _variates(learner: Learner, request: TrainRequest) -> Arrays:
    """The site's control variates: those of the last round in which its update was taken."""
    if not request.taken:
        return {}
    variates = learner.memory.keep.upto(request.run, request.taken).variates
    if not variates:
        raise RefusalError(
            f"Expected this site's control variates of round {request.taken} of run {request.run}, but it keeps "
            "none; bring its state folder back, or let the run go on without it."
        )
    return variates


def _balance_before(balances: dict[int, State], round: int) -> State | None:
    """The balance after the last round before; a new run, or a round trained again, forgets those since."""
    for number in [number for number in balances if number >= round]:
        del balances[number]
    return balances[max(balances)] if balances else None
