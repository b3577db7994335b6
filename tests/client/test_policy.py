"""The site's own policy: each rule broken is a refusal that names it; each rule kept changes nothing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
from pydantic import ValidationError

from client.leaving.disclosure import disclose_evaluation, disclose_query, disclose_training, two_digits
from client.leaving.refusals import UNSAID
from client.policy import Policy
from client.round.secagg import SecureRounds
from client.site import Site
from shared import codec
from shared.adapter import get_state, of_tasks
from shared.errors import (
    BudgetError,
    ConfigError,
    DataError,
    HeldError,
    PolicyError,
    ProtocolError,
    RefusalError,
    StoreError,
)
from shared.protocol import (
    EvaluateReply,
    EvaluateRequest,
    MaskReply,
    MaskRequest,
    QueryReply,
    QueryRequest,
    Refusal,
    Reply,
    TrainReply,
    TrainRequest,
)

MakeSite = Callable[..., Site]
EQUAL = {"rounds": {"weighting": "equal"}}
QUERY = QueryReply(
    institution="bank",
    records={"t": {"train": 1234, "validation": 137, "test": 8}},
    software="1",
    labels={"t": {"a": 1051, "b": 0, "c": 3}},
    readiness={"t": {"rows": 1379.0, "duplicate_rate": 0.0567}},
)
TRAINED = TrainReply(
    institution="bank",
    round=1,
    examples={"t": 1234},
    losses={"t": 0.123456},
    steps=346,
    seconds=1.5,
    update=b"u",
)
SCORED = EvaluateReply(
    institution="bank", round=1, split="test", examples={"t": 137}, scores={"t": {"f1": 0.98765}}, seconds=1.0
)
OWNERS: Any = {"t": {"train": 1234, "validation": 137, "test": 8}}


def disclosed(policy: Policy) -> tuple[QueryReply, TrainReply, EvaluateReply]:
    return (
        disclose_query(policy, QUERY, OWNERS),
        disclose_training(policy, TRAINED, private=False),
        disclose_evaluation(policy, SCORED, OWNERS),
    )


def requests(site: Site) -> tuple[QueryRequest, TrainRequest, EvaluateRequest]:
    digest, state = site.federation.digest, codec.encode(of_tasks(get_state(site.model), site.data.keys()), "float32")
    return (
        QueryRequest(spec_digest=digest),
        TrainRequest(spec_digest=digest, run="r1", round=1, rounds=2, state=state),
        EvaluateRequest(spec_digest=digest, run="r1", round=0, split="test", state=state),
    )


def answers(site: Site) -> list[Reply]:
    """Replies to a query, to training and to evaluation, without what a clock decides."""
    query, train, evaluate = requests(site)
    scored = site.answer(evaluate)  # first: training moves the model that `requests` reads
    replies: list[Any] = [site.answer(query), site.answer(train), scored]
    return [replace(reply, seconds=0.0) if hasattr(reply, "seconds") else reply for reply in replies]


@pytest.mark.parametrize(
    ("rules", "broken"),
    [
        ({"require_dp": True}, "qte"),
        ({"max_epsilon": 8.0}, "qte"),
        ({"federations": ["0" * 64]}, "qte"),
        ({"minimum_owners": 12}, "qte"),
        ({"metrics": "none"}, "e"),
        ({"counts": "none"}, "qte"),
        ({"max_upload_bytes": 1000}, "t"),
        ({"max_norm": 1e-6}, "t"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_a_broken_rule_is_a_refusal_that_names_it(make_site: MakeSite, rules: dict[str, Any], broken: str) -> None:
    site = make_site("clauses", policy=Policy.model_validate(rules))
    (rule,) = rules
    for letter, reply in zip("qte", answers(site), strict=True):
        if letter not in broken:
            assert not isinstance(reply, Refusal), reply
            continue
        assert isinstance(reply, Refusal), f"{rule} lets a {type(reply).__name__} out"
        assert reply.kind == "policy"
        assert f"policy.{rule}" in reply.reason


def test_rules_that_are_kept_change_nothing(make_site: MakeSite) -> None:
    bare = make_site("clauses")
    kept = Policy(
        tasks=("clauses",),
        federations=(bare.federation.digest,),
        minimum_owners=1,
        max_upload_bytes=10**6,
        max_norm=100.0,
    )
    assert answers(make_site("clauses", policy=kept)) == answers(bare)


def test_a_privacy_plan_beyond_the_policy_is_refused(make_site: MakeSite) -> None:
    plan: dict[str, Any] = {"privacy": {"epsilon": 8.0, "delta": 1e-5}, **EQUAL, "training": {"weight_decay": 0.0}}
    for rule, policy in {
        "max_epsilon": Policy(max_epsilon=4.0),
        "delta": Policy(delta=1e-6),
    }.items():
        site = make_site("clauses", policy=policy, **plan)
        reply = site.answer(requests(site)[0])
        assert isinstance(reply, Refusal)
        assert f"policy.{rule}" in reply.reason
    fits = make_site("clauses", policy=Policy(max_epsilon=8.0, require_dp=True), **plan)
    assert isinstance(fits.answer(requests(fits)[0]), QueryReply)


def test_a_task_that_may_not_take_part_is_neither_read_nor_announced_nor_accepted(make_site: MakeSite) -> None:
    site = make_site("clauses", "entities", policy=Policy(tasks=("clauses",)))
    query, train, _ = requests(site)
    reply = site.answer(query)
    assert isinstance(reply, QueryReply)
    assert set(reply.records) == set(reply.labels) == set(reply.readiness) == set(site.data) == {"clauses"}
    assert isinstance(site.answer(train), TrainReply)
    both = codec.encode(of_tasks(get_state(site.model), {"clauses", "entities"}), "float32")
    refused = site.answer(replace(train, state=both))
    assert isinstance(refused, Refusal)
    assert (refused.kind, "policy.tasks" in refused.reason, "'entities'" in refused.reason) == ("policy", True, True)


def test_a_policy_that_leaves_no_task_is_an_error(make_site: MakeSite) -> None:
    with pytest.raises(ConfigError, match=r"policy\.tasks"):
        make_site("clauses", policy=Policy(tasks=("entities",)))


def test_a_split_of_too_few_is_neither_announced_nor_scored(make_site: MakeSite) -> None:
    site = make_site("clauses", policy=Policy(minimum_owners=5))  # 11 to train, 1 to validate, 12 to test
    query, train, test = requests(site)
    described = site.answer(query)
    assert isinstance(described, QueryReply)
    assert described.records == {"clauses": {"train": 11, "test": 12}}
    assert isinstance(site.answer(train), TrainReply)
    assert isinstance(site.answer(test), EvaluateReply)
    refused = site.answer(replace(test, round=1, split="validation"))
    assert isinstance(refused, Refusal)
    assert "policy.minimum_owners" in refused.reason
    assert " 1 " not in refused.reason, "how many there are stays here"


def test_of_several_tasks_only_splits_of_enough_owners_are_scored(make_site: MakeSite) -> None:
    made = make_site("clauses", "entities", policy=Policy(minimum_owners=5))
    few: Any = {"clauses": {"train": 11, "test": 4}, "entities": {"train": 8, "test": 8}}
    site = replace(made, holdings=replace(made.holdings, owners=few))
    query, _, test = requests(site)
    described, scored = site.answer(query), site.answer(test)
    assert isinstance(described, QueryReply)
    assert {task: "test" in splits for task, splits in described.records.items()} == {
        "clauses": False,
        "entities": True,
    }
    assert isinstance(scored, EvaluateReply)
    assert set(scored.examples) == set(scored.scores) == {"entities"}


def test_without_metrics_only_training_is_announced_and_no_loss_leaves(make_site: MakeSite) -> None:
    site = make_site("clauses", policy=Policy(metrics="none"))
    query, train, evaluate = requests(site)
    described, trained = site.answer(query), site.answer(train)
    assert isinstance(described, QueryReply)
    assert described.records == {"clauses": {"train": 11}}
    assert isinstance(trained, TrainReply)
    assert trained.losses == {}
    assert isinstance(site.answer(replace(evaluate, round=1, split="validation")), Refusal)


def test_without_counts_every_count_is_one_and_labels_are_those_of_the_federation_file(make_site: MakeSite) -> None:
    site = make_site("clauses", policy=Policy(counts="none"), **EQUAL)
    described, trained, scored = answers(site)
    assert isinstance(described, QueryReply)
    assert described.counts == "none"
    assert described.records == {"clauses": {"train": 1, "validation": 1, "test": 1}}
    assert described.labels == {"clauses": {"payment": 1, "liability": 1}}
    assert described.readiness == {}
    assert isinstance(trained, TrainReply)
    assert (trained.examples, trained.steps) == ({"clauses": 1}, 1)
    assert isinstance(scored, EvaluateReply)
    assert scored.examples == {"clauses": 1}


def test_counts_are_rounded_alike_wherever_they_are_told() -> None:
    policy = Policy(counts="rounded")
    described, trained, scored = disclosed(policy)
    assert isinstance(described, QueryReply)
    assert described.records == {"t": {"train": 1200, "validation": 140, "test": 8}}
    assert described.labels == {"t": {"a": 1100, "b": 0, "c": 3}}
    assert described.readiness == {"t": {"rows": 1400.0, "duplicate_rate": 0.06}}
    assert described.counts == "rounded"
    assert isinstance(trained, TrainReply)
    assert (trained.examples, trained.steps, trained.losses) == ({"t": 1200}, 350, TRAINED.losses)
    assert isinstance(scored, EvaluateReply)
    assert (scored.examples, scored.scores) == ({"t": 140}, SCORED.scores)


def test_metrics_are_rounded_to_two_decimals() -> None:
    _, trained, scored = disclosed(Policy(metrics="rounded"))
    assert isinstance(trained, TrainReply)
    assert (trained.losses, trained.examples) == ({"t": 0.12}, {"t": 1234})
    assert isinstance(scored, EvaluateReply)
    assert scored.scores == {"t": {"f1": 0.99}}


def test_the_default_policy_discloses_the_very_same() -> None:
    assert disclosed(Policy()) == (QUERY, TRAINED, SCORED)


def test_under_privacy_no_loss_leaves_whatever_the_policy() -> None:
    trained = disclose_training(Policy(), TRAINED, private=True)
    assert trained == replace(TRAINED, losses={})


def test_a_score_that_is_no_number_does_not_show() -> None:
    scored = replace(SCORED, scores={"t": {"f1": float("nan")}})
    assert disclose_evaluation(Policy(), scored, OWNERS).scores == {"t": {"f1": 0.0}}


def test_without_metrics_the_scores_are_an_empty_map() -> None:
    scored = disclose_evaluation(Policy(metrics="none"), SCORED, OWNERS)
    assert (scored.examples, scored.scores) == ({}, {})


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, 0), (1, 1), (99, 99), (100, 100), (104, 100), (106, 110), (999, 1000), (1234, 1200), (123456, 120000)],
)
def test_two_significant_digits(number: int, shown: int) -> None:
    assert two_digits(number) == shown


def test_rates_are_rounded_to_two_decimals() -> None:
    assert [two_digits(x) for x in (0.567, 0.001, 12.34, 9.96, 5.31)] == [0.57, 0.0, 12.0, 10.0, 5.3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"metrics": "some"},
        {"minimum_owners": 0},
        {"federations": ["abc"]},
        {"max_norm": 0},
        {"hold": 5},
        {"holds": True},
    ],
)
def test_a_wrong_rule_is_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate(wrong)


def test_a_refusal_has_a_kind_and_no_path(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site("clauses")
    (query, *_), state = requests(site), site.state
    for error, kind, said in (
        (PolicyError("policy.x"), "policy", "policy.x"),
        (HeldError("rejected"), "held", "rejected"),
        (BudgetError(f"Expected the ledger {state}/ledger.db."), "budget", "Expected the ledger ledger.db."),
        (RefusalError("another"), "agreement", "another"),
        (ProtocolError("malformed"), "request", "malformed"),
        (DataError(f"{state}/a.jsonl, line 3: 'Mrs Example has gout'"), "data", UNSAID),
        (StoreError(f"no space in {state}"), "failure", UNSAID),
    ):
        monkeypatch.setattr("client.site.check_request", Mock(side_effect=error))
        assert site.answer(query) == Refusal(institution="hospital", kind=kind, reason=said)  # type: ignore[arg-type]


def test_a_masked_update_is_held_to_the_cap_too(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site("clauses", policy=Policy(max_upload_bytes=1000))
    request = MaskRequest(spec_digest=site.federation.digest, run="r", round=1, sharers=[])
    for size, expected in ((1000, MaskReply), (1001, Refusal)):
        masked = MaskReply(institution="hospital", round=1, update=b"m" * size)
        monkeypatch.setattr(SecureRounds, "answer", Mock(return_value=masked))
        assert isinstance(site.answer(request), expected)
