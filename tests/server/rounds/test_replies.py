"""Replies from outside: what is checked before it may touch the global state."""

import math
from typing import Any

import numpy as np
import pytest

from server.rounds.replies import Holdings, check_query, check_scores, check_update
from shared import codec
from shared.codec import Coding
from shared.errors import ProtocolError
from shared.protocol import EvaluateReply, EvaluateRequest, QueryReply, TrainReply, TrainRequest, decode, encode
from shared.tasks import build_task
from shared.tasks.text_classification import TextClassificationSpec

SHAPES = {"adapter/a": (2, 3), "head/t/w": (4,), "head/u/w": (5,)}
HELD = Holdings({"t": {"train": 10, "test": 4}})
TASKS = {name: build_task(name, TextClassificationSpec(type="text-classification", labels=("a", "b"))) for name in "tu"}
TRAIN = TrainRequest(spec_digest="d" * 64, run="r1", round=2, rounds=3, state=b"")
EVALUATE = EvaluateRequest(spec_digest="d" * 64, run="r1", round=2, split="test", state=b"")


def update(**changes: Any) -> TrainReply:
    arrays = {"adapter/a": np.ones((2, 3), np.float32), "head/t/w": np.ones(4, np.float32)}
    values: dict[str, Any] = {
        "institution": "bank",
        "round": 2,
        "examples": {"t": 10},
        "losses": {"t": 0.5},
        "steps": 3,
        "seconds": 1.0,
        "update": codec.encode(arrays, "float16"),
    }
    return TrainReply(**(values | changes))


def result(**changes: Any) -> EvaluateReply:
    values: dict[str, Any] = {
        "institution": "bank",
        "round": 2,
        "split": "test",
        "examples": {"t": 4},
        "scores": {"t": {"f1": 0.5, "mcc": -0.5}},
        "seconds": 1.0,
    }
    return EvaluateReply(**(values | changes))


def check(reply: TrainReply) -> Any:
    return check_update(
        decode(encode(reply), TrainReply),
        TRAIN,
        institution="bank",
        announced=HELD,
        tasks=TASKS,
        shapes=SHAPES,
        coding=Coding("float16"),
    )


def score(reply: EvaluateReply) -> EvaluateReply:
    return check_scores(
        decode(encode(reply), EvaluateReply),
        EVALUATE,
        institution="bank",
        announced=HELD,
        metrics={"t": "f1", "u": "f1"},
    )


def query(records: Any, institution: str = "bank", **more: Any) -> Holdings:
    reply = QueryReply(institution=institution, records=records, software="1", **more)
    return check_query(decode(encode(reply), QueryReply), institution="bank", tasks=TASKS, ranks=range(4, 5))


def test_good_replies_pass_unchanged() -> None:
    accepted = check(update())
    assert accepted.institution == "bank"
    assert accepted.examples == {"t": 10}
    assert accepted.arrays["adapter/a"].dtype == np.float32
    assert score(result()) == result()
    assert query({"t": {"train": 3, "validation": 0}}).records == {"t": {"train": 3}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"institution": "hospital"}, "says it is from 'hospital'"),
        ({"round": 1}, "answered round 1"),
        ({"round": True}, "in round: Input should be a valid integer"),
        ({"examples": 5}, "in examples"),
        ({"examples": {"t": "10"}}, "valid integer"),
        ({"examples": {"t": 10.0}}, "valid integer"),
        ({"examples": {"t": 0}}, "between 1 and 10, but 0 came"),
        ({"examples": {"t": 11}}, "between 1 and 10, but 11 came"),
        ({"examples": {"t": 10, "u": 1}}, "counts \\['t', 'u'\\]"),
        ({"examples": {}}, "counts \\[\\]"),
        ({"losses": None}, "in losses"),
        ({"seconds": "soon"}, "in seconds"),
        ({"update": b"nonsense"}, "safetensors"),
        ({"update": codec.encode({"adapter/a": np.ones((2, 3))}, "float16")}, "head/t/w, but it is missing"),
        (
            {"update": codec.encode({"adapter/a": np.ones((2, 3)), "head/t/w": np.ones(4)}, "float32")},
            "Expected float16 arrays",
        ),
        (
            {"update": codec.encode({"adapter/a": np.ones((2, 3)), "head/t/w": np.full(4, 1e9)}, "float16")},
            "finite",
        ),
        (
            {"update": codec.encode({"adapter/a": np.ones((2, 3)), "head/t/w": np.full(4, 6e4)}, "float16")},
            "norm at most",
        ),
    ],
)
def test_a_bad_update_is_refused_in_one_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        check(update(**changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"institution": "x"}, "says it is from"),
        ({"round": 3}, "answered round 3"),
        ({"split": "validation"}, "bank scored validation"),
        ({"split": "train"}, "in split"),
        ({"split": "dev"}, "in split"),
        ({"examples": {"t": 5}}, "between 1 and 4, but 5 came"),
        ({"examples": {}}, "counts of \\[\\]"),
        ({"scores": {}}, "scores of \\[\\]"),
        ({"scores": {"t": {"f1": 0.5}, "u": {"f1": 1.0}}}, "scores of \\['t', 'u'\\]"),
        ({"scores": {"t": {"accuracy": 0.5}}}, "Expected f1 of bank's t between -1 and 1, but None came"),
        ({"scores": {"t": {"f1": math.nan}}}, "in scores: Input should be a finite number"),
        ({"scores": {"t": {"f1": 1.5}}}, "but 1.5 came"),
        ({"scores": {"t": {"f1": -1.1}}}, "but -1.1 came"),
        ({"scores": {"t": {"f1": 0.5, "loss": math.inf}}}, "in scores: Input should be a finite number"),
        ({"scores": {"t": {"f1": 0.5, "x\x1b[2J": 1.0}}}, "in scores: String should match"),
        ({"scores": {"t": {"f1": 0.5, "x" * 40: 1.0}}}, "in scores: String should match"),
        ({"scores": {"t": {"f1": 0.5} | {f"m{n}": 0.0 for n in range(99)}}}, "in scores: .* at most 64"),
        ({"scores": {"t": 0.5}}, "in scores"),
    ],
)
def test_bad_scores_are_refused_in_one_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        score(result(**changes))


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ({}, "announced none"),
        ({"t": {"test": 3}}, "train records of t to be between 1"),
        ({"t": {"train": 10**12}}, "in records: .* less than or equal to 1000000000"),
        ({"t": {"train": 5, "test": -1}}, "in records: .* greater than or equal to 0"),
        ({"v": {"train": 5}}, "announced \\['v'\\]"),
        ({"t": {"train": "many"}}, "in records"),
        ({"t": {"secret": 5}}, "in records"),
        ([], "in records"),
    ],
)
def test_a_bad_announcement_is_refused_in_one_sentence(records: Any, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        query(records)


def test_another_institutions_announcement_is_refused() -> None:
    with pytest.raises(ProtocolError, match="says it is from 'hospital'"):
        query({"t": {"train": 3}}, institution="hospital")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"labels": {"t": {"c": 1}}}, r"labels of t among \['a', 'b'\], but bank announced \['c'\]"),
        ({"labels": {"u": {"a": 1}}}, "labels of u among"),
        ({"labels": {"t": {"a": -1}}}, "in labels: .* greater than or equal to 0"),
        ({"labels": {"t": {"a": "one"}}}, "in labels"),
        ({"readiness": {"t": {"rows": math.nan}}}, "in readiness: Input should be a finite number"),
        ({"counts": "some"}, "in counts"),
        ({"readiness": {"t": {f"n{n}": 0.0 for n in range(99)}}}, "in readiness: .* at most 64"),
    ],
)
def test_a_bad_inventory_is_refused_in_one_sentence(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        query({"t": {"train": 5}}, **more)


def test_an_update_may_move_only_the_rows_of_labels_that_the_institution_annotates() -> None:
    shapes = {"adapter/a": (2, 3), "head/t/linear.weight": (2, 4), "head/t/linear.bias": (2,)}
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    held = query({"t": {"train": 10}}, labels={"t": {"b": 10}})
    reply = update(update=codec.encode(arrays, "float16"))
    accepted = check_update(
        reply, TRAIN, institution="bank", announced=held, tasks=TASKS, shapes=shapes, coding=Coding("float16")
    )
    assert {name: mask.tolist() for name, mask in accepted.rows.items()} == {
        "head/t/linear.weight": [False, True],
        "head/t/linear.bias": [False, True],
    }
    everything = query({"t": {"train": 10}}, labels={"t": {"a": 0, "b": 10}})
    whole = check_update(
        reply, TRAIN, institution="bank", announced=everything, tasks=TASKS, shapes=shapes, coding=Coding("float16")
    )
    assert whole.rows == {}
