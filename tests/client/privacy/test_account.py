"""Whose records are trained on, and at which epsilon and delta they are charged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.policy import Policy
from client.privacy import chain
from client.privacy.account import Account, open_account
from client.privacy.ledger import Ledger
from shared.errors import BudgetError, DataError
from shared.federation import Federation
from shared.tasks import build_task

NOTES = [{"text": f"text {n}", "label": "payment", "who": f"{n // 2:03d}"} for n in range(6)]
WORDS = [{"tokens": ["a", str(n)], "tags": ["O", "O"], "patient": n} for n in range(2)]


@pytest.fixture
def account_of(path: Path, tiny_federation: Callable[..., Federation]) -> Callable[..., Account]:
    """Opens the account of some records under a policy, with a ledger in a folder."""

    def make(records: dict[str, Any], privacy: dict[str, Any] | None = None, **policy: Any) -> Account:
        federation = tiny_federation(
            privacy=privacy or {"epsilon": 3.0, "delta": 1e-6, "sampling_rate": 0.5},
            training={"weight_decay": 0.0, "head_dropout": 0.0},
            rounds={"weighting": "equal", "method": "ffa"},
        )
        return open_account(
            records,
            {"clauses": "who", "entities": "patient"},
            tasks={name: build_task(name, spec) for name, spec in federation.tasks.items()},
            federation=federation,
            policy=Policy(**policy),
            ledger=Ledger.open(path),
        )

    return make


def test_an_owner_of_two_tasks_is_one_however_each_spells_it(account_of: Callable[..., Account]) -> None:
    account = account_of({"clauses": NOTES, "entities": WORDS})
    assert account.owners["clauses", 0] == account.owners["clauses", 1] == account.owners["entities", 0] == "0"
    assert account.dataset.owners == len(set(account.owners.values())) == 3
    assert account.dataset.owner_column == "patient, who"
    with pytest.raises(DataError, match=r"Record 2 of clauses: expected an owner in the column 'who'"):
        account_of({"clauses": [NOTES[0], NOTES[1] | {"who": None}]})


@pytest.mark.parametrize(
    ("policy", "delta"),
    [({}, 1e-6), ({"delta": 1e-4}, 1e-6), ({"max_epsilon": 9.0}, 1e-5), ({"new_data": "ask"}, 1e-6)],
)
def test_the_delta_is_the_policys_under_its_own_budget_and_else_the_federations(
    account_of: Callable[..., Account], path: Path, policy: dict[str, Any], delta: float
) -> None:
    with account_of({"clauses": NOTES}, **policy).spend(round=1):
        pass
    with chain.transaction(path, write=False) as found:
        (reserved,) = [entry.body for entry in found.entries if entry.kind == "reserve"]
    assert reserved["delta"] == delta


@pytest.mark.parametrize(
    ("policy", "asks"),
    [
        ({}, False),
        ({"max_epsilon": 9.0}, True),
        ({"max_epsilon": 9.0, "new_data": "allow"}, False),
        ({"new_data": "ask"}, True),
    ],
)
def test_new_data_wait_under_a_budget(account_of: Callable[..., Account], policy: dict[str, Any], asks: bool) -> None:
    with account_of({"clauses": NOTES}, **policy).spend(round=1):
        pass
    others = account_of({"clauses": [{"text": "Other words.", "label": "payment", "who": "x"}]}, **policy)
    assert others.ledger
    if asks:
        with pytest.raises(BudgetError, match="new_data"), others.spend(round=1):
            pytest.fail("nothing may be trained")
        others.ledger.approve(others.dataset.fingerprint)
    with others.spend(round=1):
        assert others.epsilon() > 0


def test_without_any_epsilon_a_budget_must_be_said(account_of: Callable[..., Account]) -> None:
    account = account_of({"clauses": NOTES}, {"noise_multiplier": 1.0, "sampling_rate": 0.5})
    with pytest.raises(BudgetError, match=r"Expected policy\.max_epsilon"), account.spend(round=1):
        pytest.fail("nothing may be trained")
