"""A site's answers: what it trains, what it sends, what it refuses."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from client.site import Site
from client.train.scoring import score
from shared import codec
from shared.adapter import get_state, of_tasks
from shared.errors import ConfigError
from shared.protocol import (
    EvaluateReply,
    EvaluateRequest,
    QueryReply,
    QueryRequest,
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


def test_it_describes_what_it_holds(make_site: MakeSite) -> None:
    site = make_site("clauses", "notes_qa")
    reply = site.answer(QueryRequest(spec_digest=site.federation.digest))
    assert isinstance(reply, QueryReply)
    assert reply.institution == "hospital"
    assert reply.records["clauses"] == {"train": 11, "validation": 1, "test": 12}


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


def test_it_scores_every_task_it_holds_on_the_split(make_site: MakeSite) -> None:
    site = make_site("clauses", "entities")
    state = codec.encode(get_state(site.model), "float32")
    reply = site.answer(
        EvaluateRequest(spec_digest=site.federation.digest, run="r1", round=0, split="test", state=state)
    )
    assert isinstance(reply, EvaluateReply)
    assert reply.examples == {"clauses": 12, "entities": 8}
    assert 0 <= reply.scores["clauses"]["macro_f1"] <= 1


def test_it_tunes_the_null_threshold_on_its_validation_records(make_site: MakeSite) -> None:
    site = make_site("notes_qa")
    state = codec.encode(get_state(site.model), "float32")
    assert site.records("notes_qa", "validation") == ()
    reply = site.answer(
        EvaluateRequest(spec_digest=site.federation.digest, run="r1", round=0, split="test", state=state)
    )
    assert isinstance(reply, EvaluateReply)
    assert "null_threshold" not in reply.scores["notes_qa"]
    splits = dict(site.data["notes_qa"])
    splits["validation"] = splits["train"]
    tuned = score(site.model, "notes_qa", splits, "validation")
    assert score(site.model, "notes_qa", splits, "test")["null_threshold"] == tuned["null_threshold"]
    assert tuned["f1"] >= score(site.model, "notes_qa", {"test": splits["train"]}, "test")["f1"]


def test_it_tells_its_labels_and_how_many_records_bear_each(make_site: MakeSite) -> None:
    site = make_site("clauses", "notes_qa")
    reply = site.answer(QueryRequest(spec_digest=site.federation.digest))
    assert isinstance(reply, QueryReply)
    counts = Counter(record["label"] for record in site.records("clauses", "train"))
    assert reply.readiness["notes_qa"]["duplicate_rate"] == 0
    assert all(isinstance(value, float) for numbers in reply.readiness.values() for value in numbers.values())
    assert reply.labels == {"clauses": {"payment": counts["payment"], "liability": counts["liability"]}}


def test_another_agreement_is_refused(make_site: MakeSite) -> None:
    site = make_site("clauses")
    reply = site.answer(QueryRequest(spec_digest="f" * 64))
    assert isinstance(reply, Refusal)
    assert reply.kind == "agreement"
    assert site.federation.digest[:12] in reply.reason


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


def test_a_name_that_the_federation_does_not_know_is_an_error(make_site: MakeSite) -> None:
    with pytest.raises(ConfigError, match="'clinic'"):
        make_site("clauses", name="clinic")


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
