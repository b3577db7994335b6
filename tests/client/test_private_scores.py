"""A site whose scores are private: what it announces, what a score's answer holds, and what it does without budget."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from client.policy import Policy, in_force
from client.privacy.evaluation import Evaluations, NoisySums
from client.round.personal import FILE
from client.site import Site
from shared import codec
from shared.adapter import get_state, of_tasks
from shared.errors import BudgetError, ConfigError
from shared.federation import Federation
from shared.protocol import EvaluateReply, EvaluateRequest, QueryReply, QueryRequest, Refusal, Reply

MakeSite = Callable[..., Site]
AGREED: dict[str, Any] = {
    "privacy": {"epsilon": 3.0, "evaluation_epsilon": 2.0},
    "training": {"weight_decay": 0.0},
    "rounds": {"weighting": "equal", "method": "ffa"},
}


def ask(site: Site, split: Any = "test", *, round: int = 0, run: str = "r1", released: bool = False) -> Reply:
    request = EvaluateRequest(
        spec_digest=site.federation.digest,
        run=run,
        round=round,
        split=split,
        state=codec.encode(of_tasks(get_state(site.model), site.data.keys()), "float32"),
        released=released,
    )
    return site.answer(request)


def test_what_is_agreed_holds_whatever_the_policy_unless_that_tells_none(
    tiny_federation: Callable[..., Federation],
) -> None:
    for metrics in ("full", "rounded", "private"):
        assert in_force(Policy(metrics=metrics), tiny_federation(**AGREED)).metrics == "private"
    assert in_force(Policy(metrics="none"), tiny_federation(**AGREED)).metrics == "none"
    assert in_force(Policy(), tiny_federation()) == Policy()


def test_an_answer_holds_noisy_scores_and_nothing_else_of_the_records(make_site: MakeSite) -> None:
    site = make_site("clauses", "notes_qa", **AGREED)
    exact = make_site("clauses", "notes_qa", name="law_firm")
    reply, told = ask(site), ask(exact)
    assert isinstance(reply, EvaluateReply)
    assert isinstance(told, EvaluateReply)
    assert reply.examples == {"clauses": 1, "notes_qa": 1}
    assert set(reply.scores["clauses"]) == set(told.scores["clauses"])
    assert reply.scores["clauses"] != told.scores["clauses"]
    assert "null_threshold" not in reply.scores["notes_qa"]
    assert reply.epsilon
    assert 1.0 < reply.epsilon < 2.0, "one of the two evaluations that are planned"
    described = site.answer(QueryRequest(spec_digest=site.federation.digest))
    assert isinstance(described, QueryReply)
    assert described.records["clauses"] == {"train": 11, "validation": 1, "test": 1}
    assert described.readiness["clauses"]["rows"] == 11
    assert not any("test" in name or "validation" in name for name in described.readiness["clauses"])


def test_without_noise_the_scores_are_those_that_are_told_else(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NoisySums, "deviation", 0.0)
    exact = {**AGREED, "privacy": {"epsilon": 3.0}}
    told = ask(make_site("clauses", "entities", name="law_firm", **exact))
    monkeypatch.setattr("client.privacy.evaluation.DIGITS", 12)
    reply = ask(make_site("clauses", "entities", **AGREED))
    assert isinstance(told, EvaluateReply)
    assert isinstance(reply, EvaluateReply)
    assert reply.scores["clauses"] == pytest.approx(told.scores["clauses"])
    assert reply.scores["entities"].keys() == told.scores["entities"].keys()


def test_a_request_that_comes_again_gets_the_same_noise(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, of = [], NoisySums.of  # scores are cut to what a score can be, so that different noise may look alike

    def watched(self: NoisySums, counts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        drawn.append(of(self, counts))
        return drawn[-1]

    monkeypatch.setattr(NoisySums, "of", watched)
    site = make_site("clauses", **AGREED)
    first = ask(site)
    assert isinstance(first, EvaluateReply)
    assert ask(site) == ask(site) == first
    assert site.evaluations
    assert site.evaluations.epsilon("test") == first.epsilon
    other = ask(site, run="r2")
    assert isinstance(other, EvaluateReply)
    one, two = drawn
    assert not np.array_equal(one["clauses"], two["clauses"])


def test_a_site_may_have_it_so_by_itself(make_site: MakeSite) -> None:
    site = make_site("clauses", policy=Policy(metrics="private", evaluation_epsilon=1.0))
    reply = ask(site)
    assert isinstance(reply, EvaluateReply)
    assert reply.examples == {"clauses": 1}
    assert reply.epsilon
    with pytest.raises(ConfigError, match=r"policy\.evaluation_epsilon"):
        make_site("clauses", policy=Policy(metrics="private"))


def test_no_threshold_leaves_with_the_last_answer_of_a_site_that_tells_no_scores(make_site: MakeSite) -> None:
    site = make_site("notes_qa", policy=Policy(metrics="none"), **AGREED)
    assert isinstance(ask(site), Refusal)
    reply = ask(site, round=2, released=True)
    assert isinstance(reply, EvaluateReply)
    assert (reply.scores, reply.examples, reply.epsilon) == ({}, {}, None)


def test_the_released_model_is_kept_although_there_is_no_budget_to_score_it(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = replace(make_site("clauses", **AGREED), receipts=Mock())
    monkeypatch.setattr(Evaluations, "spend", Mock(side_effect=BudgetError("nothing is left")))
    reply = ask(site, round=2, released=True)
    assert isinstance(reply, Refusal)
    assert (reply.kind, reply.reason) == ("budget", "nothing is left")
    assert site.state
    assert (site.state / FILE).exists()
