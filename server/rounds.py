"""The round loop: ask, collect, check, aggregate, checkpoint, evaluate.

The same loop serves a deployment and the simulator: it sees a Flower Grid and a store. Only institutions that the
federation file names are ever sent anything.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from flwr.serverapp import Grid

from server.aggregation import ClientUpdate, fedavg
from server.asking import IDLE_SECONDS, Answer, ask, online
from server.replies import Records, check_query, check_scores, check_update
from server.store import Reply, Score, Store
from shared import codec
from shared.adapter import select
from shared.codec import Arrays
from shared.errors import QuorumError, ReplyError
from shared.federation import Federation
from shared.protocol import (
    EvaluateReply,
    EvaluateRequest,
    QueryReply,
    QueryRequest,
    Request,
    Split,
    TrainReply,
    TrainRequest,
)
from shared.tasks import build_task

Announce = Callable[[str], None]
WAIT_SECONDS = 0.2
"""Between two looks for institutions that are not online yet."""


@dataclass
class Run:
    """One run in progress: its agreement, its store, and what is known of the institutions."""

    grid: Grid
    federation: Federation
    store: Store
    run_id: str
    announce: Announce
    idle_seconds: float
    announced: dict[str, Records]
    """Records per institution that has answered the query."""

    def say(self, text: str) -> None:
        """Announce, and keep for whoever follows the run."""
        self.store.add_event(self.run_id, text)
        self.announce(text)


def run(
    grid: Grid,
    *,
    federation: Federation,
    store: Store,
    run_id: str,
    initial_state: Arrays,
    announce: Announce,
    poll_seconds: float = IDLE_SECONDS,
) -> Arrays:
    """Run a federation to its end, or go on after the last checkpoint of an unfinished run.

    Args:
        grid: Flower's Grid, or the simulator's.
        federation: The agreement.
        store: Where everything is recorded; a checkpoint is stored before every next request.
        run_id: A run in the store.
        initial_state: The state before the first round.
        announce: Told what happens.
        poll_seconds: Pause between two looks for replies.

    Returns:
        The state of the best round.

    Raises:
        QuorumError: Fewer institutions than the quorum gave a valid update; the last checkpoint is kept.
        StoreError: A record or a checkpoint could not be stored.
    """
    this = Run(grid, federation, store, run_id, announce, poll_seconds, {})
    store.update_run(run_id, status="running", reason=None, ended=None)
    _await_quorum(this)
    _query(this, 0)
    last = store.last_round(run_id)
    if last is None:
        last, state = 0, initial_state
        store.save_checkpoint(run_id, 0, state)
        _evaluate(this, state, 0, "test")
    else:
        this.say(f"Going on after round {last}")
        state = store.load_checkpoint(run_id, last)
    for number in range(last + 1, federation.rounds.count + 1):
        if _exhausted(this, number):
            this.say(f"No better validation score for {federation.rounds.patience} rounds: stopping early")
            break
        state = _round(this, state, number)
    best = store.best_round(run_id)
    assert best is not None
    state = store.load_checkpoint(run_id, best)
    this.say(f"Best round: {best}")
    _evaluate(this, state, best, "test")
    store.update_run(run_id, status="completed")
    this.say("The run has completed")
    return state


def _round(this: Run, state: Arrays, number: int) -> Arrays:
    """One round: train, aggregate, checkpoint, validate."""
    started = time.perf_counter()
    rounds = this.federation.rounds
    _query(this, number)
    requests: dict[str, TrainRequest] = {}
    for name in _present(this):
        blob = codec.encode(select(state, this.announced[name].keys()), this.federation.wire.codec)
        requests[name] = TrainRequest(spec_digest=this.federation.digest, round=number, rounds=rounds.count, state=blob)
    shapes = {name: array.shape for name, array in state.items()}
    taken: list[str] = []
    updates = _updates(this, requests, shapes, taken)
    new, diagnostics = fedavg.apply(state, updates)
    absent = sorted(set(rounds.institutions) - set(taken))
    for name in sorted(set(rounds.institutions) - requests.keys()):
        _record(this, number, "train", Answer(name, None, "missing", "not online when the round began"))
    if len(taken) < rounds.quorum:
        raise QuorumError(
            f"Expected at least {rounds.quorum} valid updates in round {number}, but {len(taken)} came (without "
            f"{', '.join(absent)}); round {number - 1} is kept, so mend those institutions and resume the run."
        )
    this.store.save_checkpoint(this.run_id, number, new)
    score = _evaluate(this, new, number, "validation")
    this.store.add_round(this.run_id, number, time.perf_counter() - started, score)
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in sorted(diagnostics.weights.items()))
    shown = "not validated" if score is None else f"validation score {score:.3f}"
    this.say(f"Round {number} of {rounds.count}: {shown}, {time.perf_counter() - started:.1f} s; weights {weights}")
    return new


def _updates(
    this: Run, requests: Mapping[str, TrainRequest], shapes: Mapping[str, tuple[int, ...]], taken: list[str]
) -> Iterator[ClientUpdate]:
    """Checked updates as they arrive; a bad reply drops that one institution, and says so."""
    for answer in _ask(this, requests, "train"):
        if answer.status == "ok":
            try:
                if not isinstance(answer.reply, TrainReply):
                    raise ReplyError(f"Expected a TrainReply from {answer.institution}, but another kind came.")
                update = check_update(
                    answer.reply,
                    requests[answer.institution],
                    institution=answer.institution,
                    announced=this.announced[answer.institution],
                    shapes=shapes,
                    codec_name=this.federation.wire.codec,
                )
            except ReplyError as error:
                answer = replace(answer, status="dropped", reason=str(error))
            else:
                taken.append(answer.institution)
                _record(this, requests[answer.institution].round, "train", answer)
                yield update
                continue
        _record(this, requests[answer.institution].round, "train", answer)


def _evaluate(this: Run, state: Arrays, number: int, split: Split) -> float | None:
    """Score a state on one split at every institution; the mean over tasks of the primary metrics."""
    holders = [n for n in _present(this) if any(split in splits for splits in this.announced[n].values())]
    requests = {
        name: EvaluateRequest(
            spec_digest=this.federation.digest,
            round=number,
            split=split,
            state=codec.encode(select(state, this.announced[name].keys()), this.federation.wire.codec),
        )
        for name in holders
    }
    metrics = {name: build_task(name, spec).metric for name, spec in this.federation.tasks.items()}
    sums: dict[str, tuple[float, int]] = {}
    for answer in _ask(this, requests, "evaluate"):
        if answer.status == "ok":
            try:
                if not isinstance(answer.reply, EvaluateReply):
                    raise ReplyError(f"Expected an EvaluateReply from {answer.institution}, but another kind came.")
                reply = check_scores(
                    answer.reply,
                    requests[answer.institution],
                    institution=answer.institution,
                    announced=this.announced[answer.institution],
                )
            except ReplyError as error:
                answer = replace(answer, status="dropped", reason=str(error))
            else:
                this.store.add_scores(this.run_id, _scores(reply))
                for task, count in reply.examples.items():
                    value, total = sums.get(task, (0.0, 0))
                    sums[task] = (value + count * reply.scores[task][metrics[task]], total + count)
        _record(this, number, f"evaluate {split}", answer)
    return sum(value / total for value, total in sums.values()) / len(sums) if sums else None


def _scores(reply: EvaluateReply) -> list[Score]:
    return [
        Score(reply.round, reply.split, reply.institution, task, metric, value, reply.examples[task])
        for task, values in reply.scores.items()
        for metric, value in values.items()
    ]


def _query(this: Run, number: int) -> None:
    """Ask institutions that have come online and are not known yet what they hold."""
    nodes = online(this.grid)
    new = [n for n in this.federation.rounds.institutions if n in nodes and n not in this.announced]
    requests = {name: QueryRequest(spec_digest=this.federation.digest) for name in new}
    for answer in _ask(this, requests, "query"):
        if answer.status == "ok":
            try:
                if not isinstance(answer.reply, QueryReply):
                    raise ReplyError(f"Expected a QueryReply from {answer.institution}, but another kind came.")
                this.announced[answer.institution] = check_query(
                    answer.reply, institution=answer.institution, tasks=this.federation.tasks
                )
            except ReplyError as error:
                answer = replace(answer, status="dropped", reason=str(error))
            else:
                held = ", ".join(
                    f"{t} ({s.get('train', 0)})" for t, s in sorted(this.announced[answer.institution].items())
                )
                this.say(f"{answer.institution} is here with {held}")
        _record(this, number, "query", answer)


def _ask(this: Run, requests: Mapping[str, Request], kind: str) -> Iterator[Answer]:
    if not requests:
        return
    yield from ask(
        this.grid,
        requests,
        online(this.grid),
        group=kind,
        deadline_seconds=this.federation.rounds.deadline_seconds,
        quorum=this.federation.rounds.quorum,
        idle_seconds=this.idle_seconds,
    )


def _record(this: Run, number: int, kind: str, answer: Answer) -> None:
    this.store.add_reply(
        this.run_id,
        Reply(
            number,
            kind,
            answer.institution,
            answer.status,
            answer.reason,
            answer.bytes_up,
            answer.bytes_down,
            answer.seconds,
        ),
    )
    if answer.status != "ok":
        this.say(f"{answer.institution} {answer.status} ({kind}, round {number}): {answer.reason}")


def _present(this: Run) -> list[str]:
    """Known institutions that are online, in the federation's order; those that are not are recorded by `_round`."""
    nodes = online(this.grid)
    return [n for n in this.federation.rounds.institutions if n in this.announced and n in nodes]


def _await_quorum(this: Run) -> None:
    """Wait for all named institutions; at the deadline the quorum is enough."""
    rounds = this.federation.rounds
    deadline = time.monotonic() + rounds.deadline_seconds
    said: set[str] = set()
    while True:
        absent = set(rounds.institutions) - online(this.grid).keys()
        if not absent:
            return
        if time.monotonic() > deadline:
            if len(rounds.institutions) - len(absent) >= rounds.quorum:
                return
            raise QuorumError(
                f"Expected at least {rounds.quorum} of {list(rounds.institutions)} online within "
                f"{rounds.deadline_seconds:g} s, but {sorted(absent)} are not; start their daemons and resume the run."
            )
        if absent != said:
            said = absent
            this.say("Waiting for " + ", ".join(sorted(absent)))
        time.sleep(WAIT_SECONDS)


def _exhausted(this: Run, number: int) -> bool:
    """Whether the validation score has not improved for `patience` rounds before round `number`."""
    patience, best = this.federation.rounds.patience, this.store.best_round(this.run_id)
    return bool(patience and best is not None and number - 1 - best >= patience)
