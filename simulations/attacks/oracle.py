"""A coordinator asks a site about its records: by scores of planted heads, and by states that overflow on one text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from client.train import trainer
from shared.model.multitask import MultiTaskModel, build_model
from shared.protocol import EvaluateReply, TrainReply
from simulations.attacks import Attack, Outcome
from simulations.attacks.stage import TINY_RECORDS
from simulations.attacks.wire import Victim

TASK = "clauses"
WEIGHT, BIAS = f"head/{TASK}/linear.weight", f"head/{TASK}/linear.bias"
Records = Sequence[Mapping[str, Any]]
HUGE = 2.5e38
"""Twice this is beyond float32."""
PRIVATE: dict[str, Any] = {
    "privacy": {"noise_multiplier": 1.0, "sampling_rate": 1.0},
    "rounds": {"method": "heads", "weighting": "equal"},
    "training": {"weight_decay": 0.0, "head_dropout": 0.0},
}
THEMES = (
    "Zebras graze beside the river at dawn.",
    "Quantum computers factor large integers quickly!",
    "Grandmother baked seventeen cherry pies yesterday",
    "Volcanic ash grounded every flight over Iceland.",
    "He plays the violin terribly, but loudly.",
    "Penguins cannot fly; they swim instead.",
)


def _states(model: MultiTaskModel, records: Records) -> np.ndarray:
    """What the head reads of each text, by anybody who has the public backbone: [records, width]."""
    read: list[np.ndarray] = []
    linear = model.heads[TASK].linear
    assert isinstance(linear, torch.nn.Linear)
    handle = linear.register_forward_pre_hook(lambda _, inputs: read.extend(inputs[0].numpy()))
    for record in records:  # one by one, so that their order is theirs
        examples = model.tasks[TASK].encode([record], model.tokenizer, 64)
        trainer.infer(model, examples, precision="float32")
    handle.remove()
    return np.stack(read)


def _detectors(states: np.ndarray) -> np.ndarray:
    """For each text, weights that give 1 for it and 0 for all others; the last is a bias: [records, width + 1]."""
    whole = np.hstack([states, np.ones((len(states), 1))]).astype(np.float64)
    return np.linalg.pinv(whole).T


def _planted(weights: np.ndarray, bias: float) -> dict[str, np.ndarray]:
    """A head whose first label has these weights and this bias, and its second one their opposite."""
    return {
        WEIGHT: np.stack([weights, -weights]).astype(np.float32),
        BIAS: np.array([bias, -bias], np.float32),
    }


def _membership(folder: Path) -> Outcome:
    """By score: is this text a training record, and under which label? Scores are not even shared."""
    candidates = TINY_RECORDS[TASK]
    data = {TASK: {"train": candidates[::2], "validation": candidates[1::4], "test": candidates[3::4]}}
    victim = Victim(folder, data, policy={"metrics": "none"})
    detectors = _detectors(_states(build_model(victim.federation), candidates))
    labels = {record["text"]: record["label"] for record in victim.site.records(TASK, "train")}

    def score(number: int, weights: np.ndarray, bias: float) -> float | None:
        reply = victim.evaluate(
            victim.blob(_planted(weights, bias)), run=f"r{number}", round=1, split="train", released=True
        )
        return reply.scores.get(TASK, {}).get("macro_f1") if isinstance(reply, EvaluateReply) else None

    nobody = score(0, np.zeros(detectors.shape[1] - 1), -1.0)
    read = 0
    for number, (record, found) in enumerate(zip(candidates, detectors, strict=True), 1):
        value = score(number, found[:-1], float(found[-1]) - 0.5)
        if value is None or nobody is None:
            continue
        guess = "payment" if value > nobody else "liability" if value < nobody else None
        read += guess == labels.get(record["text"])
    return Outcome(len(candidates), read)


def _again(folder: Path) -> Outcome:
    """Scores of one state after another on the same records, each for the same purpose and round."""
    records = TINY_RECORDS[TASK]
    data = {TASK: {"train": records[::2], "validation": records[1::4], "test": records[3::4]}}
    victim = Victim(folder, data)
    asked: tuple[dict[str, Any], ...] = (
        {"round": 0, "split": "test"},
        {"round": 1, "split": "validation"},
        {"round": 2, "split": "test", "released": True},
        {"round": 1, "split": "test", "released": True},
        {"round": 1, "split": "test"},
    )
    answered = 0
    for about in asked:
        for number in range(4):
            head = _planted(np.full(32, 0.1 * number), 0.1)
            answered += isinstance(victim.evaluate(victim.blob(head), **about), EvaluateReply)
            if number == 1:
                victim.restart()
    honest = 3  # the initial state, that after round 1, the released one
    return Outcome(4 * len(asked) - honest, answered - honest)


def _overflow(folder: Path) -> Outcome:
    """A state that overflows on one text alone, under [privacy]: does the reply's kind tell whether it is there?"""
    present, absent, planted = _pair(folder)
    differ = 0
    for number, state in enumerate(planted):
        replies = [victim.train(victim.blob(state), run=f"r{number}") for victim in (present, absent)]
        differ += type(replies[0]) is not type(replies[1])
    return Outcome(len(planted), differ)


def _spoilt(folder: Path) -> Outcome:
    """The same states, and an honest request after each: does it fail, or are both paid for?"""
    present, _, planted = _pair(folder)
    account, spoilt = present.site.account, 0
    assert account is not None
    assert isinstance(present.train(run="honest"), TrainReply)
    for number, state in enumerate(planted):
        before = account.epsilon()
        planted_reply = present.train(present.blob(state), run=f"r{number}")
        charged = account.epsilon() > before and not isinstance(planted_reply, TrainReply)
        spoilt += charged or not isinstance(present.train(run=f"r{number}"), TrainReply)
    return Outcome(len(planted), spoilt)


def _pair(folder: Path) -> tuple[Victim, Victim, list[dict[str, np.ndarray]]]:
    """A site with six targets, one without them, and the state that is planted for each."""
    others = TINY_RECORDS[TASK][::4]
    targets = [{"text": text, "label": "payment"} for text in THEMES]
    policy = {"max_epsilon": 1e6}
    test = TINY_RECORDS[TASK][1::4]
    data = [{TASK: {"train": [*others, *more], "validation": test, "test": test}} for more in (targets, [])]
    present, absent = (
        Victim(folder / name, held, policy=policy, **PRIVATE)
        for name, held in zip(("with", "without"), data, strict=True)
    )
    detectors = _detectors(_states(build_model(present.federation), [*targets, *others]))
    planted = [_planted(-HUGE * found[:-1], float(-HUGE * found[-1])) for found in detectors[: len(targets)]]
    return present, absent, planted


ATTACKS = (
    Attack(
        "planted heads scored on training records",
        "a coordinator",
        "Scores of training records are never sent, and under metrics = none no score is.",
        _membership,
    ),
    Attack(
        "many states scored on the same records",
        "a coordinator",
        "For each purpose and round a site sends the scores of one state.",
        _again,
    ),
    Attack(
        "a state that overflows on one text only",
        "a coordinator",
        "Under [privacy] no reply's form depends on a record.",
        _overflow,
    ),
    Attack(
        "an honest round after a state that overflows",
        "a coordinator",
        "A refused request does not affect later ones, and costs nothing.",
        _spoilt,
    ),
)
