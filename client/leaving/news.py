"""What the site's operator hears of every answer: a line of the executor's log, which the daemon passes on.

There is nothing of a record in it, and nothing that is not in the answer's receipt too.
"""

import logging

from shared.errors import plain
from shared.protocol import (
    EvaluateReply,
    EvaluateRequest,
    MaskReply,
    QueryReply,
    Refusal,
    Reply,
    Request,
    TrainedReply,
    TrainReply,
    TrainRequest,
    blobs_of,
)

NAME = "collegium.news"
"""The logger; the daemon knows its lines by it."""
log = logging.getLogger(NAME)


def tell(request: Request, reply: Reply) -> None:
    """Log what became of a request; the short steps of secure aggregation only where they are refused."""
    if what := _what(reply):
        log.info("%s", plain(f"{_of(request)}: {what}"))


def _of(request: Request) -> str:
    """Which run and round a request is of."""
    run, number = getattr(request, "run", None), getattr(request, "round", None)
    where = f"Run {run}" if run else "A run"
    if isinstance(request, TrainRequest):
        return f"{where}, round {number} of {request.rounds}"
    if isinstance(request, EvaluateRequest):
        split = "released model" if request.released else f"{request.split} records"
        return f"{where}, round {number}, {split}"
    return where if number is None else f"{where}, round {number}"


def _what(reply: Reply) -> str:
    if isinstance(reply, Refusal):
        return f"refused ({reply.kind}): {reply.reason}"
    sent = sum(map(len, blobs_of(reply).values()))
    if isinstance(reply, TrainReply | TrainedReply):
        size = (
            f"; an update of {_bytes(sent)} leaves" if isinstance(reply, TrainReply) else "; its masked update follows"
        )
        spent = "" if reply.epsilon is None else f"; epsilon {reply.epsilon:.2f} is spent"
        return f"trained in {reply.seconds:.0f} s{size}{spent}"
    if isinstance(reply, EvaluateReply):
        return "scored; scores leave" if reply.scores else "scored; no score leaves"
    if isinstance(reply, QueryReply):
        return f"told the coordinator what this site holds of {', '.join(sorted(reply.records)) or 'no task'}"
    return f"its masked update of {_bytes(sent)} leaves" if isinstance(reply, MaskReply) else ""


def _bytes(number: int) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{number / 1e3:.0f} kB"
