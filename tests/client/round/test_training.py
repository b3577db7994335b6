"""A round that a site trains, and the update that it sends."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from client.site import Site
from shared import codec
from shared.adapter import get_state, of_tasks
from shared.protocol import (
    Refusal,
    TrainReply,
    TrainRequest,
)

MakeSite = Callable[..., Site]


def train_request(site: Site, round: int = 1) -> TrainRequest:
    state = of_tasks(get_state(site.model), site.data.keys())
    return TrainRequest(
        spec_digest=site.federation.digest, run="r1", round=round, rounds=2, state=codec.encode(state, "float32")
    )


def test_the_update_is_the_change_of_the_adapter_and_its_own_heads(make_site: MakeSite) -> None:
    site = make_site("clauses")
    request = train_request(site)
    reply = site.answer(request)
    assert isinstance(reply, TrainReply)
    update, received = codec.decode(reply.update, "float32"), codec.decode(request.state, "float32")
    assert update.keys() == received.keys()
    assert not any(name.startswith(("head/entities", "head/notes_qa")) for name in update)
    now = get_state(site.model)
    for name, array in update.items():
        np.testing.assert_allclose(received[name] + array, now[name], atol=1e-6)
    assert reply.examples == {"clauses": 11}
    assert set(reply.losses) == {"clauses"}


def test_a_round_does_not_depend_on_what_came_before(make_site: MakeSite) -> None:
    site = make_site("clauses", "entities")
    request = train_request(site)
    first = site.answer(request)
    site.answer(replace(train_request(site, round=2), run="r2"))
    again = site.answer(request)
    assert isinstance(first, TrainReply)
    assert isinstance(again, TrainReply)
    assert first.update == again.update


def test_a_state_that_does_not_fit_is_refused(make_site: MakeSite) -> None:
    site = make_site("clauses")
    request = train_request(site)
    arrays = codec.decode(request.state, "float32")
    arrays.pop(next(iter(arrays)))
    broken = TrainRequest(
        spec_digest=request.spec_digest, run="r1", round=1, rounds=2, state=codec.encode(arrays, "float32")
    )
    reply = site.answer(broken)
    assert isinstance(reply, Refusal)
    assert reply.kind == "request"
    assert "missing" in reply.reason


def test_the_balance_goes_on_and_a_new_run_begins_afresh(make_site: MakeSite) -> None:
    site = make_site("clauses", "entities", training={"combine": "dwa"})
    for round in (1, 2):
        assert isinstance(site.answer(train_request(site, round)), TrainReply)
    assert not site.memory.balances[1]["before"]
    second = site.memory.balances[2]
    assert second["before"] == site.memory.balances[1]["last"]
    site.answer(train_request(site, 2))  # a coordinator that died asks again: from where round 1 left it
    assert site.memory.balances[2]["before"] == second["before"]
    site.answer(replace(train_request(site, 1), run="r2"))
    assert list(site.memory.balances) == [1]
    assert not site.memory.balances[1]["before"]
