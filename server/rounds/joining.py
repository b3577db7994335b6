"""Who takes part: waiting for a quorum, and asking whoever comes what it holds."""

import math
import time

from server.rounds import scoring
from server.rounds.handshake import describe, gaps
from server.rounds.replies import Holdings, check_query
from server.rounds.run import Run, checked
from shared.errors import QuorumError, joined, listed
from shared.protocol import QueryReply, QueryRequest

WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.2, 2.0
"""Between two looks for institutions that are not online yet: at first, and when some time has passed."""
WAIT_FRACTION = 0.03
"""Of the time waited so far, in between."""
AGAIN_SECONDS, LONGEST_AGAIN_SECONDS = 15.0, 600.0
"""Before those who refuse are asked again what they hold, where a round waits for them: at first, doubling, at most."""
JOIN_SECONDS = 60.0
"""Longest wait, between two rounds, for the answer of an institution that has just come online."""


def await_quorum(run: Run, *, grace: float | None = None) -> None:
    """Wait until all named institutions are online, but no longer than `grace` seconds once the quorum is.

    Args:
        run: In progress.
        grace: The agreement's `rounds.grace_seconds` if not given.

    Raises:
        QuorumError: The quorum was not online within `rounds.deadline_seconds`, and the run is not patient.
    """
    agreed = run.federation.rounds
    grace = agreed.grace_seconds if grace is None else grace
    started = time.monotonic()
    announced: tuple[set[str], float] | None = None
    while True:
        taking = set(agreed.institutions) - run.gone
        absent = taking - run.online().keys()
        waited = time.monotonic() - started
        enough = len(taking) - len(absent) >= agreed.quorum
        longest = min(grace, agreed.deadline_seconds) if enough else agreed.deadline_seconds
        if not absent or (enough and waited >= longest):
            return
        if run.patient and not enough:
            if run.is_to_pause():
                return
            longest = math.inf
        elif waited > agreed.deadline_seconds:
            raise QuorumError(
                f"Expected at least {agreed.quorum} of {listed(agreed.institutions)} online within "
                f"{agreed.deadline_seconds:g} s, but {listed(sorted(absent))} are not; start their daemons and "
                "resume the run."
            )
        if (absent, longest) != announced:
            announced = absent, longest
            until = f"for at most {longest - waited:.0f} s" if enough or not run.patient else "until there is a quorum"
            run.say(f"Waiting for {joined(sorted(absent))}, {until}")
        time.sleep(min(LONGEST_WAIT_SECONDS, max(WAIT_SECONDS, WAIT_FRACTION * waited)))


def gather(run: Run, number: int) -> bool:
    """Ask institutions what they hold, until there is a quorum that can be asked to train, if the run is patient.

    Who refuses is asked again: in its turn, and whenever somebody comes or goes.

    Returns:
        False if the operator wants the run to pause meanwhile.
    """
    run.note_withdrawals(number)
    if not run.patient:
        await_quorum(run, grace=0.0)  # some may have been cut off since the last round
        query(run, number)
        return True
    pause, told = AGAIN_SECONDS, set[str]()
    while True:
        query(run, number)
        present = run.present()
        if len(present) >= run.federation.rounds.quorum:
            return True
        away = run.seats.keys() - run.gone - set(present)
        if missing := away - told:
            told |= missing
            run.say(
                f"Round {number} waits for {joined(sorted(away))}: of the "
                f"{run.federation.rounds.quorum} that it needs {len(present)} can be asked to train"
            )
        there, until = run.online().keys(), time.monotonic() + pause
        while time.monotonic() < until and run.online().keys() == there:
            if run.is_to_pause():
                return False
            time.sleep(LONGEST_WAIT_SECONDS)
        run.note_withdrawals(number)
        pause = min(2 * pause, LONGEST_AGAIN_SECONDS)


def query(run: Run, number: int) -> None:
    """Ask institutions that have come online, or were in trouble, what they hold; new ones score the initial state."""
    nodes = run.online()
    names = [name for name, seat in run.seats.items() if name in nodes and (seat.trouble or not seat.holdings)]
    requests = {name: QueryRequest(spec_digest=run.federation.digest, run=run.run_id) for name in names}
    if names:
        run.say(f"Asking {joined(names)} for what they hold")

    def check(reply: QueryReply, name: str) -> Holdings:
        return check_query(reply, institution=name, tasks=run.tasks, ranks=run.federation.adapter.ranks)

    for answer in run.ask(requests, "query", longest=JOIN_SECONDS if run.announced else math.inf):
        good, holdings = checked(answer, QueryReply, check)
        seat = run.seats[answer.institution]
        known, seat.holdings = seat.holdings, holdings
        if holdings is not None:
            assert isinstance(answer.reply, QueryReply)
            seat.base = answer.reply.base
            if holdings != known:
                for line in describe(answer.institution, holdings, run.tasks):
                    run.say(line)
        run.record(number, "query", good, software=getattr(good.reply, "software", None))
    if number == 0:
        for line in gaps(run.announced, run.tasks, [name for name, seat in run.seats.items() if not seat.holdings]):
            run.say(line)
    if new := [name for name in run.present() if not run.seats[name].scored]:
        run.say(f"Having {joined(new)} score the initial state")
        scoring.evaluate(run, run.store.load_checkpoint(run.run_id, 0), 0, "test", new)
        for name in new:
            run.seats[name].scored = run.seats[name].trouble is None
