"""The round loop: ask, collect, check, aggregate, checkpoint, evaluate.

The same loop serves a deployment and the simulator: it sees a Flower Grid and a store. Only institutions that the
federation file names are ever sent anything.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from flwr.serverapp import Grid

from server import robust, secagg
from server.aggregation import ClientUpdate, Diagnostics, Result, fedavg, optimizers, scaffold
from server.aggregation.methods import aggregate, aggregator_of
from server.aggregation.shares import capped_mean
from server.rounds.asking import IDLE_SECONDS, online
from server.rounds.handshake import describe, gaps
from server.rounds.outcomes import PERSONAL
from server.rounds.progress import (
    Announce,
    Run,
    ask,
    base_version,
    build_tasks,
    checked,
    encode_base,
    encode_state,
    present,
    record,
    record_absent,
    record_cuts,
    record_evaluation,
    record_spending,
    require_quorum,
)
from server.rounds.replies import Holdings, check_query, check_scores, check_update
from server.store import Score, Store, rounds, scores
from shared.adapter import is_sent
from shared.codec import Arrays, Shapes
from shared.errors import QuorumError
from shared.federation import Federation
from shared.model import allocation
from shared.protocol import (
    EvaluateReply,
    EvaluateRequest,
    QueryReply,
    QueryRequest,
    Scored,
    TrainReply,
    TrainRequest,
)
from shared.rows import moved_rows
from shared.state import Moments, State, Variates

WAIT_SECONDS = 0.2
"""Between two looks for institutions that are not online yet."""
BOTH_FACTORS = (
    'With [privacy] and rounds.method "{method}", noise enters both factors and multiplies in their product: for the '
    'same epsilon scores are usually far lower than with "ffa" or "fedsvd", which train one factor'
)
GRACE_SECONDS = 120.0
"""How long a run with its quorum online waits for the other institutions before it begins; they may join later."""
JOIN_SECONDS = 60.0
"""Longest wait, between two rounds, for the answer of an institution that has just come online."""


def run(
    grid: Grid,
    *,
    federation: Federation,
    store: Store,
    run_id: str,
    initial_state: Arrays,
    announce: Announce,
    poll_seconds: float = IDLE_SECONDS,
) -> State:
    """Run a federation to its end, or go on after the last checkpoint of an unfinished run.

    Args:
        grid: Flower's Grid, or the simulator's.
        federation: The agreement.
        store: Where everything is recorded; a checkpoint is stored before every next request.
        run_id: A run in the store.
        initial_state: The model before the first round.
        announce: Told what happens.
        poll_seconds: First pause between two looks for replies.

    Returns:
        The state of the best round.

    Raises:
        QuorumError: Fewer institutions than the quorum gave a valid update; the last checkpoint is kept.
        StoreError: A record or a checkpoint could not be stored.
    """
    this = Run(grid, federation, store, run_id, announce, poll_seconds)
    store.update_run(run_id, status="running", reason=None, ended=None)
    name, reason = federation.choice
    this.say(f"Method: {name} ({reason})")
    if federation.privacy and federation.method.private == "costly":
        this.say(BOTH_FACTORS.format(method=name))
    last, state = _begin(this, initial_state)
    for number in range(last + 1, federation.rounds.count + 1):
        if _exhausted(this, number):
            this.say(f"No better validation score for {federation.rounds.patience} rounds: stopping early")
            break
        state = _round(this, state, number)
    best = store.best_round(run_id)
    assert best is not None
    state = store.load_checkpoint(run_id, best)
    this.say(f"Best round: {best}")
    _query(this, best)
    _test(this, state, best)
    store.update_run(run_id, status="completed")
    this.say("The run has completed")
    return state


def _begin(this: Run, initial: Arrays) -> tuple[int, State]:
    """Gather the institutions; the round to go on after, and the state after it."""
    _await_quorum(this)
    last = this.store.last_round(this.run_id)
    if last is None:
        state = State(initial)
        this.store.save_checkpoint(this.run_id, 0, state)
        _query(this, 0)
        return 0, state
    this.say(f"Going on after round {last}")
    state = this.store.load_checkpoint(this.run_id, last)
    tested = this.store.rows(scores, this.run_id)
    this.scored = {row["institution"] for row in tested if row["round"] == 0 and row["split"] == "test"}
    _query(this, last)
    if last and all(row["round"] != last for row in this.store.rows(rounds, this.run_id)):
        _finish(this, state, last, time.perf_counter(), None)  # it was cut off between checkpoint and validation
    return last, state


def _round(this: Run, state: State, number: int) -> State:
    """One round: train, aggregate, checkpoint, validate."""
    started = time.perf_counter()
    agreed, shapes = this.federation.rounds, _sent_shapes(this, state.model, number)
    _query(this, number)
    scaffolds = this.federation.training.scaffold
    taken = this.store.trained(this.run_id, before=number) if scaffolds else {}
    control = scaffold.mean(state.variates, shapes) if scaffolds else {}
    blobs = encode_state(this, state.model, number - 1, present(this), control)
    base = encode_base(this, number - 1, list(blobs))
    requests = {
        name: TrainRequest(
            spec_digest=this.federation.digest,
            run=this.run_id,
            round=number,
            rounds=agreed.count,
            state=blob,
            ledger=this.store.last_ledger(name),
            taken=max(taken.get(name, {}), default=0),
            **vars(base[name]),
        )
        for name, blob in blobs.items()
    }
    record_absent(this, number, requests)
    if this.federation.secure_aggregation:
        result, variates = secagg.collect(this, state.model, requests, number), state.variates
    else:
        result, variates = _collect(this, state, requests, number)
    model, steps, diagnostics = result
    require_quorum(this, number, diagnostics.examples)
    moments = state.moments
    if this.federation.server_optimizer.type != "none":
        model, moments, diagnostics = _optimize(this, state, result, number)
    new = State(aggregator_of(this.federation).after(model), moments, variates, steps)
    this.store.save_checkpoint(this.run_id, number, new)
    _finish(this, new, number, started, diagnostics)
    return new


def _collect(this: Run, state: State, requests: Mapping[str, TrainRequest], number: int) -> tuple[Result, Variates]:
    """Train and average, every update by itself; as `server.secagg.collect` does with sums alone."""
    shapes, told = _sent_shapes(this, state.model, number), [state.variates]
    ranks = allocation.ranks_left(state.model) if this.federation.adapter.prunes else None
    updates: Iterable[ClientUpdate] = _updates(this, requests, shapes, number, ranks)
    if this.federation.training.scaffold:
        updates = _controlled(this, updates, told, number)
    if this.federation.robust:
        updates = _filtered(this, state.model, list(updates), number)
    result = aggregate(state.model, updates, federation=this.federation, round=number)
    record_cuts(this, number, "train", result.diagnostics.cuts)
    return result, told[-1]


def _filtered(
    this: Run, state: Mapping[str, np.ndarray], updates: Sequence[ClientUpdate], number: int
) -> list[ClientUpdate]:
    """The updates as the federation's filter lets them through; whoever was held back is named and recorded."""
    agreed = this.federation.robust
    assert agreed is not None
    require_quorum(this, number, [update.institution for update in updates])
    filtered, findings = robust.apply(state, updates, robust=agreed, method=this.federation.method)
    this.store.add_findings(this.run_id, number, findings)
    if told := robust.describe(findings):
        this.say(f"Filter {agreed.filter}, round {number}: {told}")
    return filtered


def _controlled(
    this: Run, updates: Iterable[ClientUpdate], told: list[Variates], number: int
) -> Iterator[ClientUpdate]:
    """The updates, while the changes of control variates that came with them are added to the last of `told`."""
    taken = this.store.trained(this.run_id, before=number)
    for update in updates:
        before = taken.get(update.institution, {})
        counted = scaffold.told_before(update.control, before, this.federation.method)
        told[-1] = scaffold.add(told[-1], update, counted)
        yield update


def _sent_shapes(this: Run, model: Mapping[str, np.ndarray], number: int) -> dict[str, tuple[int, ...]]:
    method = this.federation.method
    return {name: array.shape for name, array in model.items() if is_sent(name, method, number)}


def _optimize(this: Run, state: State, result: Result, number: int) -> tuple[Arrays, Moments, Diagnostics]:
    """The server optimizer's step in place of the mean step, and its moments after it."""
    agreed = this.federation.server_optimizer
    moved = moved_rows(
        _sent_shapes(this, state.model, number),
        result.diagnostics.examples,
        outputs={name: task.outputs() for name, task in build_tasks(this).items()},
        labels={name: holdings.labels for name, holdings in this.announced.items()},
    )
    moments = state.moments if state.moments.first else optimizers.init(agreed, state.model)
    after, moments = optimizers.apply(agreed, moments, state.model, result.state, moved)
    return after, moments, replace(result.diagnostics, norm=fedavg.step_norm(after, state.model))


def _finish(this: Run, state: State, number: int, started: float, diagnostics: Diagnostics | None) -> None:
    """Validate the state after a round, and record the round."""
    score = _evaluate(this, state, number, "validation", present(this))
    seconds = time.perf_counter() - started
    participants, norm = (len(diagnostics.examples), diagnostics.norm) if diagnostics else (None, None)
    this.store.add_round(this.run_id, number, seconds, score, participants=participants, norm=norm)
    shown = "not validated" if score is None else f"validation score {score:.3f}"
    weights = diagnostics.weights if diagnostics else {}
    shares = "; weights " + ", ".join(f"{name} {w:.2f}" for name, w in sorted(weights.items())) if weights else ""
    pruned = this.federation.adapter.prunes
    ranks = f"; {allocation.describe(allocation.ranks_left(state.model))}" if pruned else ""
    this.say(f"Round {number} of {this.federation.rounds.count}: {shown}, {seconds:.1f} s{ranks}{shares}")


def _updates(
    this: Run,
    requests: Mapping[str, TrainRequest],
    shapes: Shapes,
    number: int,
    ranks: allocation.Ranks | None = None,
) -> Iterator[ClientUpdate]:
    """Checked updates as they arrive; a bad reply drops that one institution, and says so."""
    tasks = build_tasks(this)

    def check(reply: TrainReply, name: str) -> ClientUpdate:
        return check_update(
            reply,
            requests[name],
            institution=name,
            announced=this.announced[name],
            tasks=tasks,
            shapes=shapes,
            coding=this.federation.wire.coding_up,
            scaffold=this.federation.training.scaffold,
            ranks=ranks,
        )

    quorum = this.federation.rounds.quorum
    for answer in ask(this, requests, "train", quorum=quorum):
        good, update = checked(answer, TrainReply, check)
        if update is None:
            record(this, number, "train", good)
            continue
        assert isinstance(answer.reply, TrainReply)
        this.bases[answer.institution] = base_version(this, number - 1)
        losses = {task: x for task, x in answer.reply.losses.items() if task in update.examples and math.isfinite(x)}
        record(this, number, "train", good, examples=update.examples, losses=losses)
        record_spending(this, number, update.institution, answer.reply)
        yield update


def _test(this: Run, state: State, best: int) -> None:
    """Have the test records scored by the released global state, as far as there is one, and by each one's own model.

    Institutions without test records are asked too: they get the model.
    """
    federation = this.federation
    if federation.fine_tunes and not federation.method.keeps:
        _evaluate(this, state, best, "test", present(this))
    _evaluate(this, state, best, "test", present(this), released=True)


def _evaluate(
    this: Run, state: State, number: int, split: Scored, names: Sequence[str], *, released: bool = False
) -> float | None:
    """Score a state on one split at institutions that hold it; the mean over tasks of the primary metrics.

    Where `released`, everybody scores its own model, and the scores stand under `personal` if that is another than the
    global one.
    """
    own = released and bool(this.federation.method.keeps or this.federation.fine_tunes)
    stored = PERSONAL if own else split
    holders = [n for n in names if released or any(split in s for s in this.announced[n].records.values())]
    steps = encode_base(this, number, holders)
    requests = {
        name: EvaluateRequest(
            spec_digest=this.federation.digest,
            run=this.run_id,
            round=number,
            split=split,
            state=blob,
            released=released,
            **vars(steps[name]),
        )
        for name, blob in encode_state(this, state.model, number, holders).items()
    }
    metrics = {name: task.metric for name, task in build_tasks(this).items()}

    def check(reply: EvaluateReply, name: str) -> EvaluateReply:
        return check_scores(reply, requests[name], institution=name, announced=this.announced[name], metrics=metrics)

    told: dict[str, dict[str, tuple[float, int]]] = {}
    for answer in ask(this, requests, "evaluate"):
        good, reply = checked(answer, EvaluateReply, check)
        if reply is not None:
            this.bases[answer.institution] = base_version(this, number)
            this.store.add_scores(this.run_id, _scores(reply, stored))
            record_evaluation(this, number, answer.institution, reply)
            for task, count in reply.examples.items():
                told.setdefault(task, {})[answer.institution] = (reply.scores[task][metrics[task]], count)
        record(this, number, f"evaluate {stored}", good)
    means = {task: capped_mean(values, this.federation.rounds.max_share, task) for task, values in told.items()}
    if split == "validation":  # no other score steers anything
        record_cuts(this, number, split, [cut for _, cuts in means.values() for cut in cuts])
    return sum(mean for mean, _ in means.values()) / len(means) if means else None


def _scores(reply: EvaluateReply, stored: str) -> list[Score]:
    return [
        Score(reply.round, stored, reply.institution, task, metric, value, reply.examples[task])
        for task, values in reply.scores.items()
        for metric, value in values.items()
    ]


def _query(this: Run, number: int) -> None:
    """Ask institutions that have come online, or were in trouble, what they hold; new ones score the initial state."""
    nodes = online(this.grid)
    names = [
        n for n in this.federation.rounds.institutions if n in nodes and (n not in this.announced or n in this.trouble)
    ]
    requests = {name: QueryRequest(spec_digest=this.federation.digest) for name in names}

    tasks = build_tasks(this)

    def check(reply: QueryReply, name: str) -> Holdings:
        return check_query(reply, institution=name, tasks=tasks, ranks=this.federation.adapter.ranks)

    for answer in ask(this, requests, "query", longest=JOIN_SECONDS if this.announced else math.inf):
        good, holdings = checked(answer, QueryReply, check)
        known = this.announced.pop(answer.institution, None)
        if holdings is not None:
            assert isinstance(answer.reply, QueryReply)
            this.bases[answer.institution] = answer.reply.base
            this.announced[answer.institution] = holdings
            if holdings != known:
                for line in describe(answer.institution, holdings, tasks):
                    this.say(line)
        record(this, number, "query", good)
    if number == 0:
        for line in gaps(this.announced, tasks):
            this.say(line)
    new = [name for name in present(this) if name not in this.scored]
    if new:
        _evaluate(this, this.store.load_checkpoint(this.run_id, 0), 0, "test", new)
        this.scored.update(name for name in new if name not in this.trouble)


def _await_quorum(this: Run) -> None:
    """Wait until all named institutions are online, but no longer than need be once the quorum is."""
    agreed = this.federation.rounds
    started = time.monotonic()
    said: set[str] = set()
    while True:
        absent = set(agreed.institutions) - online(this.grid).keys()
        waited = time.monotonic() - started
        enough = len(agreed.institutions) - len(absent) >= agreed.quorum
        if not absent or (enough and waited >= min(GRACE_SECONDS, agreed.deadline_seconds)):
            return
        if waited > agreed.deadline_seconds:
            raise QuorumError(
                f"Expected at least {agreed.quorum} of {list(agreed.institutions)} online within "
                f"{agreed.deadline_seconds:g} s, but {sorted(absent)} are not; start their daemons and resume the run."
            )
        if absent != said:
            said = absent
            this.say("Waiting for " + ", ".join(sorted(absent)))
        time.sleep(WAIT_SECONDS)


def _exhausted(this: Run, number: int) -> bool:
    """Whether the validation score has not improved for `patience` rounds before round `number`."""
    patience, best = this.federation.rounds.patience, this.store.best_round(this.run_id)
    return bool(patience and best is not None and number - 1 - best >= patience)
