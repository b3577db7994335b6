"""What a table [robust] may stand beside: everything else is refused when the file is read."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from shared.federation import Federation
from shared.federation.filters import FILTERS, fewest

FIVE = [f"i{n}" for n in range(5)]
ROUNDS = {"quorum": 5, "weighting": "equal", "method": "rolora"}


def test_five_institutions_withstand_one_under_every_filter(tiny_federation: Callable[..., Federation]) -> None:
    for name in FILTERS:
        root = {"root": "i0"} if name == "fltrust" else {}
        federation = tiny_federation(FIVE, rounds=ROUNDS, robust={"filter": name, **root})
        assert federation.robust is not None
        assert fewest(name, 1) <= 5
    assert fewest("krum", 2) == 7
    assert fewest("geometric-median", 2) == 5


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        (
            {"rounds": {"weighting": "tasks"}},
            "rounds.weighting must be 'equal', not 'tasks': record counts are reported by the institutions",
        ),
        ({"robust": {"filter": "krum", "byzantine": 2}}, "rounds.quorum must be at least 7, for 'krum' to withstand 2"),
        ({"robust": {"filter": "median", "byzantine": 3}}, "rounds.quorum must be at least 7, for 'median'"),
        ({"rounds": {"method": "fedex"}, "robust": {"filter": "median"}}, "a single factor is sent in a round"),
        ({"rounds": {"method": "fedavg"}, "robust": {"filter": "trimmed-mean"}}, "while their product is not"),
        ({"robust": {"filter": "fltrust"}}, "robust.root must be given for 'fltrust', and for no other filter"),
        ({"robust": {"filter": "krum", "root": "i0"}}, "robust.root must be given for 'fltrust', and for no other"),
        ({"robust": {"filter": "fltrust", "root": "i9"}}, "robust.root must be one of ['i0', 'i1', 'i2', 'i3', 'i4']"),
        ({"secure_aggregation": {"threshold": 3}}, "[secure_aggregation] must not be given: a filter needs single"),
        ({"rounds": {"normalize_steps": True}}, "with rounds.normalize_steps, [robust] must not be given"),
        (
            {"training": {"scaffold": True, "optimizer": "sgd", "momentum": 0.0}},
            "with training.scaffold, [robust] must not be given",
        ),
        ({"robust": {"filter": "best"}}, "norm-bound"),
    ],
)
def test_what_does_not_fit_is_refused(
    tiny_federation: Callable[..., Federation], tables: dict[str, Any], said: str
) -> None:
    rounds = ROUNDS | tables.get("rounds", {})
    rest = {"robust": {"filter": "multi-krum"}} | {key: value for key, value in tables.items() if key != "rounds"}
    with pytest.raises(ValidationError) as caught:
        tiny_federation(FIVE, rounds=rounds, **rest)
    assert said in str(caught.value)


def test_numbers_by_themselves_are_fine_where_b_stays_at_home(tiny_federation: Callable[..., Federation]) -> None:
    tiny_federation(FIVE, rounds=ROUNDS | {"method": "fedsa"}, robust={"filter": "median"})
