"""A Grid whose institutions work in several processes, forked when model and records are loaded, and so sharing both.

Every institution belongs to one of them for the whole run, with all that it remembers from round to round. Requests go
out, and replies are handed on, in the order in which one process would work on them: sums are the same to the bit where
the processes have as many threads as the one.
"""

import ctypes
import multiprocessing
import os
import signal
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler

import torch
from flwr.app import Message

from client.site import Site
from client.train import trainer
from shared.errors import ProcessError
from simulations.engine import LocalGrid

AHEAD = 64
"""Replies that may lie ready before those that are waited for."""
WORKER_BYTES = 768 * 2**20
"""What a process takes of its own, beside what it shares: measured with MiniLM-L6 and batches of 2,048 sub-tokens."""
DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of prctl(2)."""
ForkingPickler.register(memoryview, lambda view: (bytes, (bytes(view),)))  # what Flower makes of a message's arrays


@dataclass
class Worker:
    """One process, and the requests that it has yet to be given."""

    process: BaseProcess
    pipe: Connection
    nodes: Sequence[int]
    waiting: deque[str] = field(default_factory=deque)
    busy: str | None = None


class WorkerGrid(LocalGrid):
    """Delivers messages to processes; `close` ends them, and so does the end of this one, however it comes.

    Args:
        sites: The institutions, their models on the CPU.
        count: Processes.
        threads: Of each.

    Raises:
        ProcessError: From `pull_messages`, where a process has ended.
    """

    def __init__(self, sites: Mapping[str, Site], count: int, threads: int) -> None:
        super().__init__(sites)
        warm(sites.values())
        shares = share_out({node: cost(site) for node, site in self._sites.items()}, count)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive a fork
        self.workers: list[Worker] = []
        self._replies: dict[str, Message] = {}
        self._worker_of: dict[str, Worker] = {}
        for nodes in shares:
            self.workers.append(self._start(nodes, threads))
        self._at = {node: worker for worker in self.workers for node in worker.nodes}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages with the processes of their institutions; returns their identifiers."""
        identifiers = list(super().push_messages(messages))
        for identifier in identifiers:
            worker = self._worker_of[identifier] = self._at[self._pending[identifier].metadata.dst_node_id]
            worker.waiting.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Wait for the reply to the first message among `message_ids` that has one to come, and return it."""
        for identifier in message_ids:
            if (worker := self._worker_of.pop(identifier, None)) is not None:
                while identifier not in self._replies:
                    self._go_on(worker)
                return [self._replies.pop(identifier)]
        return []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Deliver all messages."""
        return [reply for identifier in self.push_messages(messages) for reply in self.pull_messages([identifier])]

    def close(self) -> None:
        """End all processes."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()
            worker.pipe.close()

    def _start(self, nodes: Sequence[int], threads: int) -> Worker:
        ours, theirs = multiprocessing.Pipe()
        fork = multiprocessing.get_context("fork")
        process = fork.Process(target=self._work, args=(theirs, os.getpid(), threads), daemon=True)
        with warnings.catch_warnings():  # Python warns of threads, and those here are idle
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        theirs.close()
        return Worker(process, ours, nodes)

    def _work(self, pipe: Connection, parent: int, threads: int) -> None:
        """What a process does: answer one message after the other, until it is killed."""
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to everybody; the parent ends us
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        torch.set_num_threads(threads)
        while os.getppid() == parent:
            pipe.send(self._deliver(pipe.recv()))

    def _go_on(self, first: Worker) -> None:
        """Give every idle process its next message, and take the replies of whichever is done next."""
        for worker in self.workers:
            if worker.waiting and worker.busy is None and (worker is first or len(self._replies) < AHEAD):
                identifier = worker.waiting.popleft()
                with self._noticing(worker):
                    worker.pipe.send(self._pending.pop(identifier))
                worker.busy = identifier
        busy = {worker.pipe: worker for worker in self.workers if worker.busy is not None}
        for pipe in wait(list(busy)):
            assert isinstance(pipe, Connection)
            worker = busy[pipe]
            assert worker.busy is not None
            with self._noticing(worker):
                self._replies[worker.busy] = pipe.recv()
            worker.busy = None

    @contextmanager
    def _noticing(self, worker: Worker) -> Iterator[None]:
        """Say so where the process at the other end has gone."""
        try:
            yield
        except (EOFError, OSError):
            worker.process.join()
            code = worker.process.exitcode or 0
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            place = self.workers.index(worker) + 1
            raise ProcessError(
                f"Expected worker {place} of {len(self.workers)} to answer for its {len(worker.nodes)} institutions "
                f"until the run ends, but it {how}; if memory ran out, run it with fewer --workers."
            ) from None


@contextmanager
def open_grid(sites: Mapping[str, Site], workers: int) -> Iterator[LocalGrid]:
    """The Grid on which institutions answer in so many processes; in this one alone if it is 1.

    Several share the machine's cores. Load models within `forkable`.
    """
    if workers == 1:
        yield LocalGrid(sites)
        return
    grid = WorkerGrid(sites, workers, max(1, len(os.sched_getaffinity(0)) // workers))
    try:
        yield grid
    finally:
        grid.close()


@contextmanager
def forkable(workers: int) -> Iterator[None]:
    """Keep torch to a single thread where processes will be forked: the pool of others would not survive that."""
    threads = torch.get_num_threads()
    if workers > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def default_workers(institutions: int) -> int:
    """A process for each core, as far as memory and institutions allow."""
    return max(1, min(len(os.sched_getaffinity(0)), institutions, available_bytes() // WORKER_BYTES))


def available_bytes() -> int:
    """Memory that the machine can give without swapping."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return kilobytes * 1024


def share_out(costs: Mapping[int, float], count: int) -> list[list[int]]:
    """Share nodes out so that the shares cost alike: the dearest first, each to whoever has least (Graham 1969).

    Returns:
        At most `count` shares, none empty, each in the order of `costs`.
    """
    shares: list[list[int]] = [[] for _ in range(min(count, len(costs)))]
    totals = [0.0] * len(shares)
    for node in sorted(costs, key=lambda node: -costs[node]):
        least = totals.index(min(totals))
        shares[least].append(node)
        totals[least] += costs[node]
    return [[node for node in costs if node in set(share)] for share in shares]


def cost(site: Site) -> float:
    """What a round costs at an institution, in sub-tokens that pass forward."""
    epochs = site.federation.training.epochs_per_round
    sizes = {split: sum(map(len, site.examples(split))) for split in ("train", "validation")}
    return 1.0 + 3 * epochs * sizes["train"] + sizes["validation"]


def warm(sites: Iterable[Site]) -> None:
    """Let every model make, once, what it keeps beside its weights, so that forked processes share that too."""
    first = {id(site.model): site for site in sites}
    for site in first.values():
        task = min(site.data)
        trainer.infer(site.model, site.data[task]["train"].examples[:1], precision=site.federation.training.precision)
