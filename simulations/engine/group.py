"""A Grid on which several institutions train at once: their rows pass through one frozen backbone together.

A GPU does one institution's small batches no faster than those of several. Each institution of a group has its adapter
and heads, its optimizer, its order and its random numbers; what it does is what it does alone, by the same code, in a
thread of its own. Only one of these threads runs at a time, until its institution wants rows to pass. When all want it,
the rows of all pass in one (`pass_together`), and each goes on with its own gradient. Who has no more steps leaves the
group.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from flwr.app import Message

from client.site import Site
from client.train.gradients import Losses, Pass, passes_whole
from client.train.precision import autocast
from shared.model.losses import mean_over_rows
from shared.model.multitask import MultiTaskModel, states_together
from simulations.engine import LocalGrid

GROUP = 8
"""Institutions that train at once on a GPU, unless another number is asked for."""


class GroupGrid(LocalGrid):
    """Works on the requests to train of up to `size` institutions at once, as far as they `go_together`.

    Others are worked on one after the other, as are all other requests.
    """

    def __init__(self, sites: Mapping[str, Site], size: int) -> None:
        super().__init__(sites)
        self._size = size
        self._twins: dict[int, list[MultiTaskModel]] = {}
        self._replies: dict[str, Message] = {}

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Work on the first queued message among `message_ids`, and those that go with it, and return its reply."""
        for identifier in message_ids:
            if identifier in self._pending:
                self._work(self._group(identifier))
            if identifier in self._replies:
                return [self._replies.pop(identifier)]
        return []

    def _group(self, identifier: str) -> list[str]:
        """This message, and the next of institutions that go together with its own."""
        site = self._site(identifier)
        if not self._trains(identifier) or not go_together(site):
            return [identifier]
        others = [
            other
            for other in self._pending
            if other != identifier and self._trains(other) and self._site(other).model is site.model
        ]
        return [identifier, *others[: self._size - 1]]

    def _work(self, group: Sequence[str]) -> None:
        """Answer the messages."""
        messages = [self._pending.pop(identifier) for identifier in group]
        if len(group) == 1:
            self._replies[group[0]] = self._deliver(messages[0])
            return
        nodes = [message.metadata.dst_node_id for message in messages]
        sites = [self._sites[node] for node in nodes]
        strands = [Strand(partial(self._deliver, message), sites[0].model.device) for message in messages]
        for node, site, strand, twin in zip(nodes, sites, strands, self._twins_of(sites[0].model), strict=False):
            self._sites[node] = replace(site, model=twin, passing=strand.want)
        try:
            self._replies |= dict(zip(group, together(strands), strict=True))
        finally:
            self._sites.update(zip(nodes, sites, strict=True))

    def _twins_of(self, model: MultiTaskModel) -> list[MultiTaskModel]:
        """As many models over the same frozen weights as may train at once; made once."""
        if id(model) not in self._twins:
            self._twins[id(model)] = [model.twin() for _ in range(min(self._size, len(self._sites)))]
        return self._twins[id(model)]

    def _site(self, identifier: str) -> Site:
        return self._sites[self._pending[identifier].metadata.dst_node_id]

    def _trains(self, identifier: str) -> bool:
        return self._pending[identifier].metadata.message_type == "train"


def go_together(site: Site) -> bool:
    """Whether an institution can train in a group: not if a step needs more of the encoder than a pass of its rows."""
    federation = site.federation
    return not (
        federation.privacy
        or federation.method.frozen
        or federation.adapter.dropout
        or federation.training.adversarial_epsilon
        or passes_whole(federation.training)
    )


class Strand:
    """Work in a thread of its own, which runs only while `resume` waits for it to want something or to end."""

    def __init__(self, work: Callable[[], Message], device: torch.device) -> None:
        """Work that calls `want`, with random numbers of its own on main memory and `device`."""
        self.wanted: Pass | None = None
        self.result: Message | None = None
        self.draws = Draws(device)
        self._work = work
        self._given: Losses | Exception = {}
        self._turn, self._done = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self._run, daemon=True).start()

    def resume(self, given: Losses | Exception) -> None:
        """Hand over what was wanted, and wait for what is wanted next, or for the result."""
        self._given, self.wanted = given, None
        with self.draws.own():
            self._turn.release()
            self._done.acquire()

    def want(self, rows: Pass) -> Losses:
        """In the thread: let rows pass, with those of others."""
        self.wanted = rows
        self._done.release()
        self._turn.acquire()
        if isinstance(self._given, Exception):
            raise self._given
        return self._given

    def _run(self) -> None:
        self._turn.acquire()
        try:
            self.result = self._work()
        finally:
            self._done.release()


class Draws:
    """torch's random numbers as one institution draws them, whatever the others draw meanwhile."""

    def __init__(self, device: torch.device) -> None:
        """Go on from where torch's generators are."""
        self._device = device
        self._state = self._read()

    @contextmanager
    def own(self) -> Iterator[None]:
        """Inside, torch's generators are this institution's."""
        outside = self._read()
        self._set(self._state)
        try:
            yield
        finally:
            self._state = self._read()
            self._set(outside)

    def _read(self) -> list[torch.Tensor]:
        states = [torch.get_rng_state()]
        return [*states, torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else states

    def _set(self, states: Sequence[torch.Tensor]) -> None:
        torch.set_rng_state(states[0])
        for state in states[1:]:
            torch.cuda.set_rng_state(state, self._device)


def together(strands: Sequence[Strand]) -> list[Message]:
    """Run all strands to their ends; what those want that are left passes at once."""
    for strand in strands:
        strand.resume({})
    while left := [(strand, strand.wanted) for strand in strands if strand.wanted]:
        found: Sequence[Losses | Exception]
        try:
            found = pass_together([rows for _, rows in left], [strand.draws for strand, _ in left])
        except Exception as error:  # each institution answers for itself
            found = [error] * len(left)
        for (strand, _), given in zip(left, found, strict=True):
            strand.resume(given)
    results = [strand.result for strand in strands if strand.result]
    assert len(results) == len(strands), "a strand ended without a result"
    return results


def pass_together(passes: Sequence[Pass], draws: Sequence[Draws]) -> list[Losses]:
    """As `client.train.gradients.alone` of each, in one pass through the encoder.

    Args:
        passes: Of a model and its twins, each of another.
        draws: The random numbers of each.
    """
    device, precision = passes[0].model.device, passes[0].training.precision
    batches = [rows.batch.to(device) for rows in passes]
    logits = []
    with autocast(device, precision):
        states = states_together([rows.model for rows in passes], batches)
        for rows, batch, own, random in zip(passes, batches, states, draws, strict=True):
            with random.own():
                logits.append(rows.model.read(own, batch))
    losses = [rows.model.losses(batch, own) for rows, batch, own in zip(passes, batches, logits, strict=True)]
    means = [mean_over_rows(own, rows.weights) for own, rows in zip(losses, passes, strict=True)]
    torch.stack(means).sum().backward()  # type: ignore[no-untyped-call]
    return [{task: values.detach() for task, values in own.items()} for own in losses]
