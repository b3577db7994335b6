"""From train requests to one result: every reply is checked by itself as it comes, and averaged with the others."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from server import robust
from server.aggregation import ClientUpdate, Result, scaffold
from server.aggregation.methods import aggregate
from server.rounds.replies import check_update
from server.rounds.run import Run, checked
from shared.adapter import is_sent
from shared.codec import Arrays
from shared.federation import Federation
from shared.federation.methods import Method
from shared.model.allocation import ranks_left
from shared.protocol import TrainReply, TrainRequest
from shared.state import State, Variates

IN_ORDER_BYTES = 64 * 2**20
"""Up to here a round's updates are kept until all have come, in float32."""


def sent_shapes(model: Mapping[str, np.ndarray], method: Method, number: int) -> dict[str, tuple[int, ...]]:
    """Of the arrays whose updates leave institutions in a round."""
    return {name: array.shape for name, array in model.items() if is_sent(name, method, number)}


def collect(run: Run, state: State, requests: Mapping[str, TrainRequest], number: int) -> tuple[Result, Variates]:
    """Train and aggregate, every update by itself; `server.secagg.collect` does the same with sums alone.

    Sums of floating-point numbers depend on their order, and training magnifies the last bit. So that a run can be
    repeated to the bit, updates are added up in the order of names: where all of them are held in any case, and where
    they take at most `IN_ORDER_BYTES`. Larger rounds add each one up as it comes, and hold none.

    Args:
        run: In progress.
        state: Before the round.
        requests: By institution.
        number: The round.

    Returns:
        What the updates come to, and the control variates after them.

    Raises:
        QuorumError: A robust filter has fewer updates than the quorum, or lacks its trusted root's.
    """
    variates = [state.variates]
    updates: Iterable[ClientUpdate] = _updates(run, state.model, requests, number)
    if _are_held(run.federation, state.model, len(requests), number):
        updates = sorted(updates, key=lambda update: update.institution)
    if run.federation.training.scaffold:
        updates = _controlled(run, updates, variates, number)
    if run.federation.robust:
        updates = _filtered(run, state.model, list(updates), number)
    result = aggregate(state.model, updates, federation=run.federation, round=number)
    run.record_cuts(number, "train", result.diagnostics.cuts)
    return result, variates[-1]


def _are_held(federation: Federation, model: Arrays, institutions: int, number: int) -> bool:
    numbers = sum(math.prod(shape) for shape in sent_shapes(model, federation.method, number).values())
    fits = 4 * numbers * institutions <= IN_ORDER_BYTES
    return fits or federation.robust is not None or not federation.method.linear


def _updates(run: Run, model: Arrays, requests: Mapping[str, TrainRequest], number: int) -> Iterator[ClientUpdate]:
    """Checked updates as they arrive; a bad reply drops that one institution, and says so."""
    federation, announced = run.federation, run.announced
    shapes = sent_shapes(model, federation.method, number)
    ranks = ranks_left(model) if federation.adapter.prunes else None

    def check(reply: TrainReply, name: str) -> ClientUpdate:
        return check_update(
            reply,
            requests[name],
            institution=name,
            announced=announced[name],
            tasks=run.tasks,
            shapes=shapes,
            coding=federation.wire.coding_up,
            scaffold=federation.training.scaffold,
            ranks=ranks,
        )

    for answer in run.ask(requests, "train", quorum=federation.rounds.quorum):
        good, update = checked(answer, TrainReply, check)
        if update is None:
            run.record(number, "train", good)
            continue
        assert isinstance(answer.reply, TrainReply)
        run.seats[answer.institution].base = run.base_version(number - 1)
        losses = {task: x for task, x in answer.reply.losses.items() if task in update.examples and math.isfinite(x)}
        run.record(number, "train", good, examples=update.examples, losses=losses)
        run.record_spending(number, update.institution, answer.reply)
        yield update


def _controlled(
    run: Run, updates: Iterable[ClientUpdate], variates: list[Variates], number: int
) -> Iterator[ClientUpdate]:
    """The updates, while the changes of control variates that came with them are added to the last of `variates`."""
    taken = run.store.trained(run.run_id, before=number)
    for update in updates:
        before = taken.get(update.institution, {})
        counted = scaffold.told_before(update.control, before, run.federation.method)
        variates[-1] = scaffold.add(variates[-1], update, counted)
        yield update


def _filtered(run: Run, model: Arrays, updates: Sequence[ClientUpdate], number: int) -> list[ClientUpdate]:
    """The updates after the federation's filter; what was filtered is announced and recorded."""
    agreed = run.federation.robust
    assert agreed is not None
    run.require_quorum(number, [update.institution for update in updates])
    filtered, findings = robust.apply(model, updates, robust=agreed, method=run.federation.method)
    run.store.add_findings(run.run_id, number, findings)
    if found := robust.describe(findings):
        run.say(f"Filter {agreed.filter}, round {number}: {found}")
    return filtered
