"""One institution lies about its counts, so that its own update or score decides."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from client.site import Site
from server.store import Store
from shared import codec, protocol
from shared.codec import Arrays
from shared.federation import Federation
from shared.protocol import EvaluateRequest, QueryRequest, TrainRequest
from simulations.attacks import Attack, Outcome
from simulations.attacks.stage import tiny_federation, write_tiny_bert
from simulations.engine import LocalGrid, run_on

HONEST = ("hospital", "law_firm", "clinic")
LIAR = "bank"
RECORDS = 100
LIES = (10**4, 10**6, 10**9)
"""10^9 is the largest count that a coordinator accepts."""
STATE: Arrays = {
    "adapter/a": np.zeros((2, 3), np.float32),
    "head/clauses/linear.weight": np.zeros((2, 3), np.float32),
    "head/clauses/linear.bias": np.zeros(2, np.float32),
}
Answer = Callable[[Any], Any]


class Puppet:
    """An institution that replies with what it is given."""

    def __init__(
        self, name: str, *, train: int, validation: int, move: float, scores: Mapping[int, float], steps: int = 10
    ) -> None:
        self.name, self.move, self.scores, self.steps = name, move, scores, steps
        self.records = {"train": train, "validation": validation}
        self.federation: Federation | None = None
        """The agreement; that of whoever plays it."""

    def answer(self, request: Any, run: str | None = None) -> Any:
        """Reply as an honest site would, but with these counts, scores and steps."""
        if isinstance(request, QueryRequest):
            records = cast(Any, {"clauses": self.records})
            return protocol.QueryReply(institution=self.name, records=records, software="")
        if isinstance(request, EvaluateRequest):
            counts = {"clauses": self.records["validation"]} if request.split == "validation" else {}
            return protocol.EvaluateReply(
                institution=self.name,
                round=request.round,
                split=request.split,
                examples=counts,
                scores={task: {"macro_f1": self.scores.get(request.round, 0.5)} for task in counts},
                seconds=0.0,
            )
        assert isinstance(request, TrainRequest)
        update = {n: np.full(a.shape, self.move, np.float32) for n, a in codec.decode(request.state, "float32").items()}
        return protocol.TrainReply(
            institution=self.name,
            round=request.round,
            examples={"clauses": self.records["train"]},
            losses={},
            steps=self.steps,
            seconds=0.0,
            update=codec.encode(update, "float32"),
        )


def _play(folder: Path, liar: Puppet, *, move: float = 0.0, **rounds: Any) -> tuple[int | None, Arrays]:
    """A run of honest institutions, which move every parameter by `move` and score best in round 2, and one liar.

    Returns:
        The released round, and the state after round 1.
    """
    folder.mkdir()
    backbone = write_tiny_bert(folder)
    federation: Federation = tiny_federation(backbone, (*HONEST, LIAR), rounds={"count": 2, "quorum": 4, **rounds})
    honest = {
        name: Puppet(name, train=RECORDS, validation=RECORDS, move=move, scores={1: 0.5, 2: 0.8}) for name in HONEST
    }
    everybody = honest | {LIAR: liar}
    for puppet in everybody.values():
        puppet.federation = federation
    grid = LocalGrid(cast(Mapping[str, Site], everybody))
    with Store.open(f"sqlite:///{folder / 'store.db'}", checkpoints=folder / "checkpoints") as store:
        run = run_on(grid, federation, STATE, store)
        return store.best_round(run), store.load_checkpoint(run, 1).model


def decide_the_round(folder: Path) -> Outcome:
    """Claim many validation records, and score round 1 a little higher; the others score round 2 much higher."""
    chosen = [
        _play(folder / str(lie), Puppet(LIAR, train=RECORDS, validation=lie, move=0.0, scores={1: 0.6, 2: 0.5}))[0]
        for lie in LIES
    ]
    return Outcome(len(chosen), chosen.count(1))


def take_the_model(folder: Path) -> Outcome:
    """Claim many training records, and move every parameter by 1; the others move none.

    It succeeds if the model moves by more than half of that.
    """
    moved = []
    for lie in LIES:
        for weighting in ("tasks", "examples"):
            liar = Puppet(LIAR, train=lie, validation=RECORDS, move=1.0, scores={})
            _, state = _play(folder / f"{lie}-{weighting}", liar, weighting=weighting)
            moved.append(max(float(np.abs(state[name]).max()) for name in STATE))
    return Outcome(
        len(moved), sum(m > 0.5 + 1e-6 for m in moved), f"the model moved by {max(moved):.2f} of the attacker's step"
    )


def stretch_the_step(folder: Path) -> Outcome:
    """Claim many steps under `normalize_steps`; it succeeds if the model moves far beyond an honest round's step."""

    def moved(where: Path, steps: int) -> float:
        liar = Puppet(LIAR, train=RECORDS, validation=RECORDS, move=1.0, scores={}, steps=steps)
        _, state = _play(where, liar, move=1.0, normalize_steps=True)
        return float(np.abs(state["adapter/a"]).max())

    honest = moved(folder / "honest", 10)
    moves = [moved(folder / str(steps), steps) for steps in (10**3, 10**4, 10**6)]
    return Outcome(len(moves), sum(m > 4 * honest for m in moves), f"{max(moves) / honest:.1f} times an honest step")


PROMISE = "no institution's counts weigh more than rounds.max_share"
ATTACKS = (
    Attack(
        "10^9 validation records claimed, to choose the released round", "an institution", PROMISE, decide_the_round
    ),
    Attack("10^9 training records claimed, to dominate the model", "an institution", PROMISE, take_the_model),
    Attack("10^6 steps claimed, to stretch the mean", "an institution", PROMISE, stretch_the_step),
)
