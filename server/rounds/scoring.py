"""Having a state scored by those who hold records: validation after a round, test before the first and at the end."""

from collections.abc import Sequence

from server.aggregation.shares import capped_mean
from server.rounds.encoding import encode_base, encode_state
from server.rounds.outcomes import PERSONAL
from server.rounds.replies import check_scores
from server.rounds.run import Run, checked
from server.store import Score
from shared.fields import Scored
from shared.protocol import EvaluateReply, EvaluateRequest
from shared.state import State


def evaluate(
    run: Run, state: State, number: int, split: Scored, names: Sequence[str], *, released: bool = False
) -> None:
    """Score a state on one split at institutions that hold it.

    Where `released`, everybody scores its own model, and the scores stand under `personal` if that is another than the
    global one.
    """
    own = released and bool(run.federation.method.keeps or run.federation.fine_tunes)
    stored, announced = PERSONAL if own else split, run.announced
    holders = [n for n in names if released or any(split in splits for splits in announced[n].records.values())]
    base = encode_base(run, number, holders)
    requests = {
        name: EvaluateRequest(
            spec_digest=run.federation.digest,
            run=run.run_id,
            round=number,
            split=split,
            state=blob,
            released=released,
            **vars(base[name]),
        )
        for name, blob in encode_state(run, state.model, number, holders).items()
    }
    metrics = {name: task.metric for name, task in run.tasks.items()}

    def check(reply: EvaluateReply, name: str) -> EvaluateReply:
        return check_scores(reply, requests[name], institution=name, announced=announced[name], metrics=metrics)

    reported: dict[str, dict[str, tuple[float, int]]] = {}
    for answer in run.ask(requests, "evaluate"):
        good, reply = checked(answer, EvaluateReply, check)
        if reply is not None:
            run.seats[answer.institution].base = run.base_version(number)
            run.store.add_scores(run.run_id, _scores(reply, stored))
            run.record_evaluation(number, answer.institution, reply)
            for task, count in reply.examples.items():
                reported.setdefault(task, {})[answer.institution] = (reply.scores[task][metrics[task]], count)
        run.record(number, f"evaluate {stored}", good)
    share = run.federation.rounds.max_share
    cuts = [cut for task, values in reported.items() for cut in capped_mean(values, share, task)[1]]
    if split == "validation":  # no other score steers anything
        run.record_cuts(number, split, cuts)


def score_released(run: Run, state: State, best: int) -> None:
    """Have the test records scored by the released global state, as far as there is one, and by each one's own model.

    Institutions without test records are asked too: they get the model.
    """
    federation = run.federation
    if federation.fine_tunes and not federation.method.keeps:
        evaluate(run, state, best, "test", run.present())
    evaluate(run, state, best, "test", run.present(), released=True)


def _scores(reply: EvaluateReply, stored: str) -> list[Score]:
    return [
        Score(reply.round, stored, reply.institution, task, metric, value, reply.examples[task])
        for task, values in reply.scores.items()
        for metric, value in values.items()
    ]
