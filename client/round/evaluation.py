"""An institution's answer to a request for scores: of a split, or of the released model, which it also keeps."""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from client.learner import Learner
from client.leaving.disclosure import disclose_evaluation
from client.policy import offered
from client.round import personal
from client.round.receive import load, receive
from client.round.requests import purpose_of
from client.train.hooks import LoggedProgress
from client.train.scoring import private_scores, score, tune
from shared.errors import BudgetError
from shared.protocol import EvaluateReply, EvaluateRequest


def evaluate(
    learner: Learner, request: EvaluateRequest, *, run: str | None = None, folder: Path | None = None
) -> EvaluateReply:
    """The scores that are asked for, as far as the policy shares them.

    Args:
        learner: Whose they are; the state in the request is loaded into its model.
        request: From the coordinator.
        run: The run, for the ledger.
        folder: Where the model of the released round is kept; None does not keep it.

    Raises:
        ProtocolError: The request does not fit the agreement, or comes out of turn.
        PolicyError, BudgetError: The policy, or what privacy may cost, does not allow it.
    """
    started = time.perf_counter()
    memory, purpose = learner.memory, purpose_of(request, learner.federation)
    state = receive(learner, request, memory.initial | memory.keep.upto(request.run, request.round).home)
    before = memory.asked.evaluate(request, purpose, learner.policy.max_evaluations)
    load(learner, request, state)
    if before:
        return before
    if request.released and learner.federation.fine_tunes:
        personal.fine_tune(
            learner.model,
            learner.examples("train"),
            learner.federation,
            institution=learner.name,
            augment=learner.augment,
            hooks=[LoggedProgress("the fine-tune")],
        )
    keep = partial(_keep_model, learner, request, folder) if request.released and folder else None
    try:
        reply = _score(learner, request, run)
    except BudgetError:  # the released model comes with this request, whether or not it may be scored
        if keep:
            keep({})
        raise
    reply = disclose_evaluation(learner.policy, reply, learner.holdings.owners)
    reply = replace(reply, seconds=time.perf_counter() - started)
    if keep:
        keep(reply.scores)
    memory.asked.answered(request, purpose, reply)
    return reply


def _score(learner: Learner, request: EvaluateRequest, run: str | None) -> EvaluateReply:
    """The scores of a split under the model's present state, as they are or private."""
    shown = offered(learner.policy, learner.holdings.owners)
    scored = {task: splits[request.split] for task, splits in learner.data.items() if request.split in shown[task]}
    precision, private = learner.federation.training.precision, learner.evaluations if scored else None
    if private:
        with private.spend(request.split, round=request.round, run=run) as sums:
            scores = private_scores(learner.model, scored, sums, precision)
    else:
        scores = {task: score(learner.model, task, learner.data[task], request.split, precision) for task in scored}
    return EvaluateReply(
        institution=learner.name,
        round=request.round,
        split=request.split,
        examples={task: len(data.records) for task, data in scored.items()},
        scores=scores,
        seconds=0.0,
        epsilon=private.epsilon(request.split) if private else None,
        ledger=str(private.head) if private and private.head else None,
    )


def _keep_model(
    learner: Learner, request: EvaluateRequest, folder: Path, scores: Mapping[str, Mapping[str, float]]
) -> None:
    """Keep the institution's own model of the released round, with the scores that are reported of it."""
    tuned = {task: tune(learner.model, task, splits) for task, splits in learner.data.items()}
    about = {
        "institution": learner.name,
        "run": request.run,
        "round": request.round,
        "scores": scores,
        "settings": {task: settings for task, settings in tuned.items() if settings},
    }
    personal.keep_model(folder, learner.model, learner.federation, tasks=learner.data.keys(), about=about)
