"""A state that came before is not read anew; what anybody could change of it is."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from client.policy import Policy
from client.round import receive, states
from client.site import Site
from shared import codec
from shared.adapter import get_state, of_tasks
from shared.codec import Arrays
from shared.federation import Federation
from shared.protocol import EvaluateReply, EvaluateRequest, Refusal, TrainReply, TrainRequest

MakeSite = Callable[..., Site]


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Site]:
    """Grows by one with every state that is checked."""
    monkeypatch.setattr(receive, "_last", receive._Last())
    seen: list[Site] = []
    check = states.check_state

    def counted(*arguments: object) -> Arrays:
        seen.append(arguments[1])  # type: ignore[arg-type]
        return check(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(receive, "check_state", counted)
    return seen


def requests(site: Site, blob: bytes) -> tuple[EvaluateRequest, TrainRequest]:
    """To score a state, and to train from it in the next round."""
    digest = site.federation.digest
    score = EvaluateRequest(spec_digest=digest, run="r1", round=0, state=blob, split="test")
    return score, TrainRequest(spec_digest=digest, run="r1", round=1, rounds=2, state=blob)


def state_of(site: Site) -> bytes:
    return codec.encode(of_tasks(get_state(site.model), site.data.keys()), "float32")


def test_the_state_that_was_scored_is_not_checked_again_before_it_is_trained(
    make_site: MakeSite, checks: list[Site]
) -> None:
    site = make_site("clauses")
    score, train = requests(site, state_of(site))
    assert isinstance(site.answer(score), EvaluateReply)
    remembered = site.answer(train)
    assert len(checks) == 1
    again = site.answer(replace(train, state=bytes(bytearray(train.state))))  # equal, and not the same object
    assert len(checks) == 1
    receive._last = receive._Last()
    afresh = site.answer(train)
    assert len(checks) == 2
    assert isinstance(remembered, TrainReply)
    assert isinstance(again, TrainReply)
    assert isinstance(afresh, TrainReply)
    assert remembered.update == again.update == afresh.update


def test_nobody_can_write_to_what_the_next_one_reads(make_site: MakeSite, checks: list[Site]) -> None:
    site = make_site("clauses")
    _, train = requests(site, state_of(site))
    assert isinstance(site.answer(train), TrainReply)
    known = receive._last._checked
    assert known is not None
    for array in (*known.arrays.values(), *known.came.arrays()):
        with pytest.raises(ValueError, match="read-only"):
            array += 1


def test_another_state_another_model_and_other_tasks_are_checked(make_site: MakeSite, checks: list[Site]) -> None:
    first, second, both = make_site("clauses"), make_site("clauses"), make_site("clauses", "entities")
    _, train = requests(first, state_of(first))
    assert isinstance(first.answer(train), TrainReply)
    assert isinstance(second.answer(train), TrainReply)
    assert len(checks) == 2
    other = of_tasks(get_state(second.model), second.data.keys())
    other[min(other)] = np.full_like(other[min(other)], np.nan)
    assert isinstance(second.answer(replace(train, state=codec.encode(other, "float32"))), Refusal)
    lacks = both.answer(replace(train, spec_digest=both.federation.digest))
    assert isinstance(lacks, Refusal)
    assert "missing" in lacks.reason


def test_the_policy_is_asked_each_time(make_site: MakeSite, checks: list[Site]) -> None:
    site = make_site("clauses")
    _, train = requests(site, state_of(site))
    assert isinstance(site.answer(train), TrainReply)
    refused = replace(site, policy=Policy(tasks=("entities",))).answer(train)
    assert isinstance(refused, Refusal)
    assert refused.kind == "policy"


def test_where_a_part_stays_at_the_institution_nothing_is_remembered(
    make_site: MakeSite, tiny_federation: Callable[..., Federation], checks: list[Site]
) -> None:
    site = make_site("clauses", rounds={"method": "fedsa"})
    _, train = requests(site, b"")
    sent = {n: a for n, a in of_tasks(get_state(site.model), site.data.keys()).items() if n in site.shapes_received()}
    train = replace(train, state=codec.encode(sent, "float32"))
    for number in (1, 2):
        assert isinstance(site.answer(train), TrainReply)
        assert len(checks) == number
