"""What secure aggregation costs a round: seconds and bytes beside plain averaging, in turns in one process.

    python -m simulations.benchmarks.secagg --blocks 3

Three institutions of the demonstration hold MiniLM-L6 with its LoRA adapter and heads; nobody trains and the seconds of
validation are taken off, so that those of the machinery remain: states, updates, keys, shares, masks, checkpoint. There
is no network in this; deployed, each of the three further messages also waits for the SuperNode's poll.
"""

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from flwr.app import Message

from client.site import Site
from server.rounds import loop as rounds
from server.store import Store
from server.store import rounds as round_table
from shared import protocol
from shared.adapter import get_state
from shared.federation import Federation, SecureAggregation
from shared.model.multitask import build_model
from shared.process.console import announce, print_table
from shared.protocol import EvaluateRequest, QueryRequest, Reply, Request
from simulations.demo import CONFIG
from simulations.engine import LocalGrid
from simulations.experiment import Experiment, load_experiment, open_sites
from simulations.nodekeys import public_keys
from simulations.samples import SAMPLES


@dataclass
class Measured:
    """What rounds took."""

    seconds: list[float] = field(default_factory=list)
    down: list[float] = field(default_factory=list)
    """Kilobytes of a round that institutions received, all of them together, without validation."""
    up: list[float] = field(default_factory=list)


class CountingGrid(LocalGrid):
    """Counts the bytes of all messages that have to do with training, and the seconds of validation."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        super().__init__(sites)
        self.down = self.up = 0
        self.validating: Counter[int] = Counter()
        """Milliseconds by round."""

    def _deliver(self, message: Message) -> Message:
        started = time.perf_counter()
        reply = super()._deliver(message)
        request: Request = protocol.decode(message.content, *protocol.MESSAGE_TYPES)
        if isinstance(request, EvaluateRequest):
            if request.split == "validation":
                self.validating[request.round] += round(1e3 * (time.perf_counter() - started))
        elif not isinstance(request, QueryRequest):
            self.down += size(request)
            self.up += size(protocol.decode(reply.content, *protocol.REPLIES))
        return reply


def size(message: Request | Reply) -> int:
    """Bytes of a message: its text and its blobs."""
    return len(protocol.body_of(message)) + sum(map(len, protocol.blobs_of(message).values()))


def main(
    blocks: Annotated[int, typer.Option(min=1, help="Turns of plain and secure rounds.")] = 3,
    number: Annotated[int, typer.Option("--rounds", min=2, help="Rounds per turn; the first warms up.")] = 5,
) -> None:
    """Measure rounds of both kinds and print medians, ranges and ratios."""
    demo = load_experiment(CONFIG, data=SAMPLES, limit=8)
    found = {"plain": Measured(), "secure": Measured()}
    for block in range(blocks):
        for kind, secure in (("plain", None), ("secure", _secure(demo))):
            announce(f"block {block + 1} of {blocks}: {kind}")
            measure(_experiment(demo, number, secure), found[kind])
    rows: list[list[Any]] = []
    for what, unit in (("seconds", "s"), ("down", "kB"), ("up", "kB")):
        plain, secure = (getattr(found[kind], what) for kind in ("plain", "secure"))
        rows += [
            [f"plain: {what} a round, {unit}", *_summary(plain)],
            [f"secure: {what} a round, {unit}", *_summary(secure)],
        ]
        rows.append([f"ratio secure / plain: {what}", *_summary([s / p for s, p in zip(secure, plain, strict=True)])])
    print_table(["what", "median", "least", "most", "n"], rows)


def measure(experiment: Experiment, found: Measured) -> None:
    """Run a federation and add what its rounds took, except the first."""
    federation = experiment.federation
    model = build_model(federation)
    grid = CountingGrid(open_sites(experiment, model))
    with tempfile.TemporaryDirectory(prefix="collegium-secagg-") as folder:
        url = f"sqlite:///{Path(folder) / 'collegium.db'}"
        with Store.open(url, checkpoints=Path(folder) / "checkpoints") as store:
            run_id = store.create_run(federation)
            rounds.run(
                grid,
                federation=federation,
                store=store,
                run_id=run_id,
                initial_state=get_state(model),
                announce=lambda _: None,
                poll_seconds=0.0,
            )
            rows = store.rows(round_table, run_id)
    seconds = [row["seconds"] - grid.validating[row["round"]] / 1e3 for row in rows]
    found.seconds += seconds[1:]
    found.down.append(grid.down / len(seconds) / 1e3)
    found.up.append(grid.up / len(seconds) / 1e3)


def _secure(demo: Experiment) -> SecureAggregation:
    names = demo.federation.rounds.institutions
    return SecureAggregation(threshold=len(names), keys=public_keys(names))


def _experiment(demo: Experiment, number: int, secure: SecureAggregation | None) -> Experiment:
    values = demo.federation.model_dump(mode="json", exclude_none=True)
    values["training"]["epochs_per_round"] = 0
    values["rounds"] |= {"count": number, "quorum": 3}
    values["secure_aggregation"] = secure
    return demo.model_copy(update={"federation": Federation.model_validate(values)})


def _summary(values: list[float]) -> list[float | int]:
    return [statistics.median(values), min(values), max(values), len(values)]


if __name__ == "__main__":
    typer.run(main)
