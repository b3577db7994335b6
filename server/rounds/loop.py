"""The round loop: ask, collect, check, aggregate, checkpoint, evaluate.

The same loop serves a deployment and the simulator: it sees a Flower Grid and a store. Only institutions that the
federation file names are ever sent anything.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from flwr.serverapp import Grid

from server import secagg
from server.aggregation import Diagnostics, Result, fedavg, optimizers, scaffold
from server.aggregation.methods import aggregator_of
from server.rounds import scoring
from server.rounds.asking import IDLE_SECONDS, Look, pauses
from server.rounds.collecting import collect, sent_shapes
from server.rounds.comparing import Compared, compared
from server.rounds.encoding import encode_base, encode_state
from server.rounds.joining import await_quorum, gather, query
from server.rounds.run import Announce, Run
from server.store import UNENDED, Store, rounds, scores
from shared.codec import Arrays
from shared.errors import ConfigError, joined
from shared.federation import Federation
from shared.model import allocation
from shared.protocol import TrainRequest
from shared.rows import moved_rows
from shared.state import Moments, State
from shared.watching.logs import about

Longer = Callable[[Federation], Federation | None]
BOTH_FACTORS = (
    'With [privacy] and rounds.method "{method}", noise enters both factors and multiplies in their product: for the '
    'same epsilon scores are usually far lower than with "ffa" or "fedsvd", which train one factor'
)


def run(
    grid: Grid,
    *,
    federation: Federation,
    store: Store,
    run_id: str,
    initial_state: Arrays | State | None,
    announce: Announce,
    poll_seconds: float = IDLE_SECONDS,
    look: Look | None = None,
    longer: Longer = lambda federation: None,
    patient: bool = False,
) -> State:
    """Run a federation to its end, or go on after the last checkpoint of an unfinished run.

    Args:
        grid: Flower's Grid, or the simulator's.
        federation: The agreement.
        store: Where everything is recorded; a checkpoint is stored before every next request.
        run_id: A run in the store.
        initial_state: The model before the first round; a run that goes on needs none.
        announce: Told what happens.
        poll_seconds: First pause between two looks for replies.
        look: Waits for them in the place of pauses.
        patient: Whether to wait without an end for a quorum that is away, and says for whom.
        longer: Under `rounds.late`, asked before every round for an agreement that only adds to the one in force.

    Returns:
        The state of the best round; of the last one if the operator has paused the run.

    Raises:
        ConfigError: The run has completed, or was stopped meanwhile.
        QuorumError: Fewer institutions than the quorum gave a valid update; the last checkpoint is kept.
        StoreError: A record or a checkpoint could not be stored.
    """
    run = Run(grid, federation, store, run_id, announce, look or pauses(poll_seconds), patient)
    if not store.move_run(run_id, "running", of=(*UNENDED, "failed")):
        raise ConfigError(f"Expected a run to go on with, but run {run_id} is {store.run(run_id)['status']}.")
    name, reason = federation.choice
    run.say(f"Method: {name} ({reason})")
    if federation.privacy and federation.method.private == "costly":
        run.say(BOTH_FACTORS.format(method=name))
    last, state = _begin(run, initial_state)
    number = last
    while number < run.federation.rounds.count:
        number += 1
        if _exhausted(run, number):
            run.say(f"No better validation score for {run.federation.rounds.patience} rounds: stopping early")
            break
        if not _ready(run, number, longer):
            run.say(f"Paused after round {number - 1}")
            store.move_run(run_id, "paused", of=("running",), pausing=False)
            return state
        with about(round=number):
            state = _round(run, state, number)
    best = store.best_round(run_id)
    assert best is not None
    state = store.load_checkpoint(run_id, best)
    carried = found.describe() if (found := compared(store, run_id).get(best)) else ""
    run.say(f"Best round: {best}" + (f" (with {carried}, since they were away)" if carried else ""))
    query(run, best)
    scoring.score_released(run, state, best)
    if store.move_run(run_id, "completed", of=("running",), pausing=False):
        run.say("The run has completed")
    return state


def _begin(run: Run, initial: Arrays | State | None) -> tuple[int, State]:
    """Gather the institutions; the round to go on after, and the state after it."""
    last = run.store.last_round(run.run_id)
    run.note_withdrawals((last or 0) + 1)
    await_quorum(run)
    if last is None:
        assert initial is not None
        state = initial if isinstance(initial, State) else State(initial)
        sha256 = run.store.save_checkpoint(run.run_id, 0, state)
        run.say(f"The initial state is stored; its SHA-256 is {sha256}")
        query(run, 0)
        return 0, state
    run.say(f"Continuing after round {last}")
    state = run.store.load_checkpoint(run.run_id, last)
    for row in run.store.rows(scores, run.run_id):
        if row["round"] == 0 and row["split"] == "test":
            run.seats[row["institution"]].scored = True
    query(run, last)
    if last and all(row["round"] != last for row in run.store.rows(rounds, run.run_id)):
        _finish(run, state, last, time.perf_counter(), None)  # it was cut off between checkpoint and validation
    return last, state


def _ready(run: Run, number: int, longer: Longer) -> bool:
    """Have a quorum there for a round, under the agreement that it is to be under; False if the run is to pause."""
    if run.is_to_pause():
        return False
    if run.federation.rounds.late and (agreed := longer(run.federation)):
        run.go_on_under(agreed, number)
    return gather(run, number)


def _round(run: Run, state: State, number: int) -> State:
    """One round: train, aggregate, checkpoint, validate."""
    started = time.perf_counter()
    requests = _requests(run, state, number)
    run.record_absent(number, requests)
    if run.federation.secure_aggregation:
        result, variates = secagg.collect(run, state.model, requests, number), state.variates
    else:
        result, variates = collect(run, state, requests, number)
    run.require_quorum(number, result.diagnostics.examples)
    result, moments = _optimize(run, state, result, number)
    model = aggregator_of(run.federation).after(result.state)
    new = State(model, moments, variates, result.steps)
    run.store.save_checkpoint(run.run_id, number, new)
    _finish(run, new, number, started, result.diagnostics)
    return new


def _requests(run: Run, state: State, number: int) -> dict[str, TrainRequest]:
    """What everybody who is present is asked to train, and from where."""
    federation, scaffolds = run.federation, run.federation.training.scaffold
    taken = run.store.trained(run.run_id, before=number) if scaffolds else {}
    shapes = sent_shapes(state.model, federation.method, number)
    control = scaffold.mean(state.variates, shapes) if scaffolds else {}
    blobs = encode_state(run, state.model, number - 1, run.present(), control)
    base = encode_base(run, number - 1, list(blobs))
    ledgers = run.store.last_ledgers()
    return {
        name: TrainRequest(
            spec_digest=federation.digest,
            run=run.run_id,
            round=number,
            rounds=federation.rounds.count,
            state=blob,
            ledger=ledgers.get(name),
            taken=max(taken.get(name, {}), default=0),
            **vars(base[name]),
        )
        for name, blob in blobs.items()
    }


def _optimize(run: Run, state: State, result: Result, number: int) -> tuple[Result, Moments]:
    """The server optimizer's step, if one is agreed, in place of the mean step; its moments after it."""
    agreed = run.federation.server_optimizer
    if agreed.type == "none":
        return result, state.moments
    moved = moved_rows(
        sent_shapes(state.model, run.federation.method, number),
        result.diagnostics.examples,
        outputs={name: task.outputs() for name, task in run.tasks.items()},
        labels={name: holdings.labels for name, holdings in run.announced.items()},
    )
    before = state.moments if state.moments.first else optimizers.init(agreed, state.model)
    after, moments = optimizers.apply(agreed, before, state.model, result.state, moved)
    diagnostics = replace(result.diagnostics, norm=fedavg.step_norm(after, state.model))
    return Result(after, result.steps, diagnostics), moments


def _finish(run: Run, state: State, number: int, started: float, diagnostics: Diagnostics | None) -> None:
    """Validate the state after a round, and record the round."""
    scoring.evaluate(run, state, number, "validation", run.present())
    found = compared(run.store, run.run_id)
    seconds = time.perf_counter() - started
    participants, norm = (len(diagnostics.examples), diagnostics.norm) if diagnostics else (None, None)
    by_round = {round: one.score for round, one in found.items()}
    run.store.add_round(run.run_id, number, seconds, by_round, participants=participants, norm=norm)
    shown = _shown(found.get(number))
    weights = diagnostics.weights if diagnostics else {}
    shares = "; weights " + joined(f"{name} {w:.2f}" for name, w in sorted(weights.items())) if weights else ""
    pruned = run.federation.adapter.prunes
    ranks = f"; {allocation.describe(allocation.ranks_left(state.model))}" if pruned else ""
    run.say(f"Round {number} of {run.federation.rounds.count}: {shown}, {seconds:.1f} s{ranks}{shares}")


def _shown(found: Compared | None) -> str:
    """A round's score, and what in it is another round's."""
    if found is None:
        return "not validated"
    carried = found.describe()
    return f"validation score {found.score:.3f}" + (f" (with {carried})" if carried else "")


def _exhausted(run: Run, number: int) -> bool:
    """Whether the validation score has not improved for `patience` rounds before round `number`."""
    patience, best = run.federation.rounds.patience, run.store.best_round(run.run_id)
    return bool(patience and best is not None and number - 1 - best >= patience)
