"""What may be asked, and when: the list, the order of rounds, one answer per purpose, and what a restart remembers."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.policy import Policy
from client.round.requests import RUNS, Asked, check_request, purpose_of
from client.site import Site
from shared import codec
from shared.adapter import get_state
from shared.errors import PolicyError, ProtocolError, StoreError
from shared.federation import Federation
from shared.protocol import EvaluateReply, EvaluateRequest, Refusal, TrainRequest

Make = Callable[..., Federation]
DIGEST = "d" * 64


def evaluate(round: int, split: Any, released: bool = False, **more: Any) -> EvaluateRequest:
    values = {"spec_digest": DIGEST, "run": "r1", "state": b"s"} | more
    return EvaluateRequest(round=round, split=split, released=released, **values)


def reply(value: float = 0.5) -> EvaluateReply:
    return EvaluateReply(
        institution="bank", round=1, split="validation", examples={"t": 3}, scores={"t": {"f1": value}}, seconds=0.5
    )


@pytest.mark.parametrize(
    ("asked", "purpose"),
    [
        ((0, "test"), "initial"),
        ((1, "validation"), "validation"),
        ((2, "test", True), "released"),
        ((2, "test"), None),
        ((0, "validation"), None),
        ((0, "test", True), None),
        ((1, "validation", True), None),
        ((1, "train", True), None),
        ((1, "train"), None),
        ((0, "train"), None),
    ],
)
def test_scores_are_told_for_a_short_list_of_purposes(
    tiny_federation: Make, asked: tuple[Any, ...], purpose: str | None
) -> None:
    if purpose:
        assert purpose_of(evaluate(*asked), tiny_federation()) == purpose
        return
    with pytest.raises(ProtocolError, match="Expected to be asked for test scores"):
        purpose_of(evaluate(*asked), tiny_federation())


def test_the_global_model_is_tested_where_institutions_have_another_of_their_own(tiny_federation: Make) -> None:
    tuned = tiny_federation(personal={"fine_tune_epochs": 1})
    assert purpose_of(evaluate(2, "test"), tuned) == "common"
    with pytest.raises(ProtocolError):
        purpose_of(evaluate(2, "test"), tiny_federation(personal={"fine_tune_epochs": 1, "keep": ["heads"]}))


@pytest.mark.parametrize("folder", [True, False])
def test_a_purpose_has_one_state_and_a_repeat_the_same_answer(tmp_path: Path, folder: bool) -> None:
    asked = Asked(tmp_path if folder else None)
    request = evaluate(1, "validation")
    assert asked.evaluate(request, "validation", None) is None
    assert asked.evaluate(request, "validation", None) is None, "it died before it answered"
    asked.answered(request, "validation", reply())
    if folder:
        asked = Asked(tmp_path)
    assert asked.evaluate(request, "validation", None) == reply()
    with pytest.raises(ProtocolError, match="one answer for each purpose and round"):
        asked.evaluate(replace(request, state=b"other"), "validation", None)
    assert asked.evaluate(replace(request, run="r2", state=b"other"), "validation", None) is None
    assert asked.evaluate(evaluate(3, "validation", state=b"other"), "validation", None) is None
    assert asked.scored("r1") == 2


def test_one_round_of_a_run_is_the_released_one() -> None:
    asked = Asked()
    asked.evaluate(evaluate(2, "test", True), "released", None)
    for other in (evaluate(1, "test", True), evaluate(3, "test", True)):
        with pytest.raises(ProtocolError, match="released scores"):
            asked.evaluate(other, "released", None)


def test_rounds_follow_or_repeat(tmp_path: Path) -> None:
    Asked(tmp_path).train("r1", 1)
    Asked(tmp_path).train("r1", 4)  # it was away for two
    asked = Asked(tmp_path)
    asked.train("r1", 4)
    with pytest.raises(ProtocolError, match="round 4 of this run or a later one, but round 3"):
        asked.train("r1", 3)
    with pytest.raises(ProtocolError, match="never goes back"):
        asked.evaluate(evaluate(3, "validation"), "validation", None)
    asked.evaluate(evaluate(0, "test"), "initial", None)
    asked.evaluate(evaluate(2, "test", True), "released", None)
    asked.train("r2", 1)


def test_a_limit_leaves_room_for_the_released_model() -> None:
    asked = Asked()
    asked.evaluate(evaluate(0, "test"), "initial", 2)
    asked.evaluate(evaluate(0, "test"), "initial", 2)
    with pytest.raises(PolicyError, match=r"policy\.max_evaluations"):
        asked.evaluate(evaluate(1, "validation"), "validation", 2)
    asked.evaluate(evaluate(1, "test", True), "released", 2)
    assert asked.scored("r1") == 2


def test_what_is_remembered_is_bounded(tmp_path: Path) -> None:
    asked = Asked(tmp_path)
    for number in range(RUNS + 5):
        asked.train(f"r{number}", 1)
        os.utime(tmp_path / f"r{number}.json", (number, number))
    assert len(list(tmp_path.iterdir())) == RUNS
    sizes = []
    for number in (9, 99, 999):
        request = evaluate(number, "validation", run="r20")
        asked.evaluate(request, "validation", None)
        asked.answered(request, "validation", reply())
        sizes.append((tmp_path / "r20.json").stat().st_size)
    assert sizes[-1] - sizes[0] < 10, "only its last round is remembered"


def test_nothing_is_answered_that_cannot_be_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(tmp_path)
    asked.train("r1", 1)
    (tmp_path / "r2.json").write_text("half a", encoding="utf-8")
    with pytest.raises(StoreError, match="Could not read"):
        asked.train("r2", 1)

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="make room"):
        asked.train("r1", 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"round": 3}, "one of the 2 rounds"),
        ({"rounds": 3}, "a run of 2 rounds"),
        ({"rounds": 1}, "a run of 2 rounds"),
        ({"taken": 1, "round": 2}, "earlier round's update"),
        ({"base": b"steps"}, "never moves"),
        ({"base_version": "r1:0"}, "never moves"),
        ({"base_since": "r1:0"}, "never moves"),
    ],
)
def test_a_request_fits_the_agreement(tiny_federation: Make, changes: dict[str, Any], said: str) -> None:
    request = TrainRequest(spec_digest=DIGEST, run="r1", round=1, rounds=2, state=b"s")
    check_request(request, tiny_federation())
    with pytest.raises(ProtocolError, match=said):
        check_request(replace(request, **changes), tiny_federation())


@pytest.mark.parametrize("version", ["", "r1:1", "r2:0", "r1:00"])
def test_frozen_weights_have_the_version_that_the_round_implies(tiny_federation: Make, version: str) -> None:
    folds = tiny_federation(rounds={"method": "fedex"})
    request = TrainRequest(spec_digest=DIGEST, run="r1", round=1, rounds=2, state=b"s", base_version="r1:0")
    check_request(request, folds)
    check_request(evaluate(2, "validation", base_version="r1:2"), folds)
    with pytest.raises(ProtocolError, match="Expected the frozen weights' version 'r1:0'"):
        check_request(replace(request, base_version=version), folds)


def test_a_site_answers_a_repeat_without_scoring_again(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site("clauses", policy=Policy(max_evaluations=5))
    blob = codec.encode(get_state(site.model), "float32")
    request = evaluate(0, "test", spec_digest=site.federation.digest, state=blob)
    first = site.answer(request)
    assert isinstance(first, EvaluateReply)
    monkeypatch.setattr("client.round.evaluation.score", None)
    assert site.answer(request) == first
    arrays = codec.decode(blob, "float32")
    other = {name: array + 0.1 for name, array in arrays.items()}
    refused = site.answer(replace(request, state=codec.encode(other, "float32")))
    assert isinstance(refused, Refusal)
    assert (refused.kind, "another one came" in refused.reason) == ("request", True)
