"""Private scores: a coordinator that plants heads, and reads from the scores whether an owner's record is scored.

It knows every other record of the institution and chooses every state that is scored, and so the very prediction of the
record that it is after. What epsilon promises is that even so its guess is right with a probability of at most
e^epsilon / (1 + e^epsilon) + delta where the coin is fair (Kairouz, Oh and Viswanath 2015, arXiv 1311.0776).
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from client.institution import Data, Institution, Runtime
from client.opening import build_site
from client.policy import Policy
from client.preflight import Kept
from client.privacy.ledger import Ledger
from client.site import Site
from shared import codec
from shared.adapter import get_state, of_tasks
from shared.model.multitask import build_model
from shared.protocol import EvaluateReply, EvaluateRequest, QueryRequest, Reply
from simulations.attacks import Attack, Outcome
from simulations.attacks.stage import TINY_RECORDS, tiny_federation, write_tiny_bert

PROMISE = "private scores reveal no more about an owner of validation or test records than evaluation_epsilon allows"
EPSILON, DELTA, ROUNDS = 1.0, 1e-5, 2
TRIALS = 40
"""Runs that are guessed, after as many from which the attacker learns how to guess."""
CHANCE = 1e-4
"""How unlikely so many right guesses must be under the bound to refute it."""
TARGET = {"text": "Neither party is liable for the zygote.", "label": "liability"}
"""Whose presence among the validation records is guessed; all others bear the other label."""
OTHERS, TRAIN = TINY_RECORDS["clauses"][:5], TINY_RECORDS["clauses"][5:]
Statistic = Callable[[Sequence[float]], float]
"""What the attacker computes from the accuracy reported in each round."""


class Stage:
    """Two institutions that differ in the one owner of a validation record, and share a model."""

    def __init__(self, folder: Path, *, ledger: bool = False) -> None:
        bert = folder / "bert"
        bert.mkdir()
        self.federation = tiny_federation(
            write_tiny_bert(bert),
            privacy={"epsilon": 3.0, "sampling_rate": 0.5, "evaluation_epsilon": EPSILON, "delta": DELTA},
            training={"weight_decay": 0.0},
            rounds={"count": ROUNDS, "method": "ffa", "weighting": "equal"},
        )
        self.model = build_model(self.federation)
        self.sites = {present: self._site(folder / str(present), present, ledger) for present in (False, True)}

    def _site(self, folder: Path, present: bool, ledger: bool) -> Site:
        folder.mkdir()
        splits = {"train": TRAIN, "validation": [*OTHERS, *([TARGET] if present else [])], "test": TRAIN[:4]}
        files: dict[str, Any] = {split: folder / f"{split}.jsonl" for split in splits}
        for split, records in splits.items():
            files[split].write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        data, runtime = {"clauses": Data(**files)}, Runtime(state=folder / "state")
        institution = Institution(name="hospital", data=data, policy=Policy(), runtime=runtime)
        kept = Kept(ledger=Ledger.open(folder / "ledger.sqlite") if ledger else None)
        return build_site(institution, self.federation, self.model, kept)

    def ask(self, present: bool, *, run: str, round: int, label: str = "payment") -> Reply:
        """The answer to a request for validation scores of a state that finds the same label in every text."""
        arrays = of_tasks(get_state(self.model), {"clauses"})
        arrays["head/clauses/linear.weight"] = np.zeros_like(arrays["head/clauses/linear.weight"])
        arrays["head/clauses/linear.bias"] = np.eye(2, dtype=np.float32)[["payment", "liability"].index(label)]
        request = EvaluateRequest(
            spec_digest=self.federation.digest,
            run=run,
            round=round,
            split="validation",
            state=codec.encode(arrays, "float32"),
        )
        return self.sites[present].answer(request, run="1")


def guess(folder: Path, labels: Sequence[str], statistic: Statistic) -> Outcome:
    """Guess, run by run, whether the target is there; all right guesses count if they are too many for epsilon."""
    stage, rng = Stage(folder), np.random.default_rng(0)
    there = rng.random(2 * TRIALS) < 0.5
    observed = np.array(
        [
            statistic([_accuracy(stage.ask(present, run=str(run), round=n, label=label)) for n, label in each])
            for run, present in enumerate(there)
            for each in [[*enumerate(labels, 1)]]
        ]
    )
    cut, sign = _learn(observed[:TRIALS], there[:TRIALS])
    right = int(((sign * (observed[TRIALS:] - cut) > 0) == there[TRIALS:]).sum())
    bound = math.exp(EPSILON) / (1 + math.exp(EPSILON)) + DELTA
    refuted = binomtest(right, TRIALS, bound, alternative="greater").pvalue < CHANCE
    return Outcome(
        TRIALS, right if refuted else 0, f"{right / TRIALS:.0%} of the guesses right; epsilon allows {bound:.0%}"
    )


def guess_by_score(folder: Path) -> Outcome:
    """Without noise the accuracy is 1 if the target is not there."""
    return guess(folder, ["payment"] * ROUNDS, lambda observed: float(np.mean(observed)))


def guess_by_difference(folder: Path) -> Outcome:
    """Between a state that errs on the target alone and one that errs on all others, everybody else cancels out."""
    return guess(folder, ["payment", "liability"], lambda observed: observed[0] - observed[1])


def ask_again(folder: Path) -> Outcome:
    """The mean of many answers to one request has less noise; no answer but the first must differ from it."""
    stage = Stage(folder)
    answers = [stage.ask(True, run="1", round=1) for _ in range(20)]
    first = answers[0]
    other = sum(not isinstance(reply, EvaluateReply) or reply.scores != first.scores for reply in answers[1:])  # type: ignore[union-attr]
    return Outcome(len(answers) - 1, other)


def ask_under_new_names(folder: Path) -> Outcome:
    """Every run is another one to the site; what it answers beyond the planned rounds of one is too much."""
    stage = Stage(folder, ledger=True)
    replies = [stage.ask(True, run=str(run), round=n) for run in range(10) for n in range(1, ROUNDS + 1)]
    answered = sum(isinstance(reply, EvaluateReply) for reply in replies)
    return Outcome(len(replies), max(0, answered - ROUNDS))


def compare_replies(folder: Path) -> Outcome:
    """Whatever else is in a reply must not depend on whether the target is there."""
    stage = Stage(folder)
    query = QueryRequest(spec_digest=stage.federation.digest)
    both = [
        {present: _told(site.answer(query, run="1")) for present, site in stage.sites.items()},
        {present: _told(stage.ask(present, run="1", round=1)) for present in stage.sites},
    ]
    fields = [(each[False][name], each[True][name]) for each in both for name in each[False]]
    return Outcome(len(fields), sum(without != with_it for without, with_it in fields))


def _told(reply: Reply) -> Mapping[str, Any]:
    """A reply's fields but for the noisy scores, of which the names are left, and what a clock says."""
    rest = {name: value for name, value in asdict(reply).items() if name != "seconds"}
    if isinstance(reply, EvaluateReply):
        rest["scores"] = {task: sorted(metrics) for task, metrics in reply.scores.items()}
    return rest


def _accuracy(reply: Reply) -> float:
    assert isinstance(reply, EvaluateReply)
    return reply.scores["clauses"]["accuracy"]


def _learn(observed: np.ndarray, there: np.ndarray) -> tuple[float, int]:
    """The cut, and on which side of it the target is there, with the most right guesses."""
    cuts = (np.sort(observed)[1:] + np.sort(observed)[:-1]) / 2
    right = {(float(cut), sign): ((sign * (observed - cut) > 0) == there).mean() for cut in cuts for sign in (-1, 1)}
    return max(right, key=lambda each: right[each])


ATTACKS = (
    Attack("membership of a validation record, inferred from scores", "a coordinator", PROMISE, guess_by_score),
    Attack(
        "membership of a validation record, inferred from two scores", "a coordinator", PROMISE, guess_by_difference
    ),
    Attack("averaging the noise out of scores", "a coordinator", PROMISE, ask_again),
    Attack("more scores by new names of the run", "a coordinator", PROMISE, ask_under_new_names),
    Attack(
        "membership of a validation record, inferred from the rest of a reply",
        "a coordinator",
        PROMISE,
        compare_replies,
    ),
)
