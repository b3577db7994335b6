"""Every kind of error has a kind of refusal."""

from typing import get_args

import pytest

from client.leaving.refusals import UNSAID, refusal
from shared import errors
from shared.errors import CollegiumError
from shared.protocol import RefusalKind

KINDS: dict[type[CollegiumError], RefusalKind] = {
    errors.PolicyError: "policy",
    errors.HeldError: "held",
    errors.BudgetError: "budget",
    errors.RefusalError: "agreement",
    errors.ProtocolError: "request",
    errors.ReplyError: "request",
    errors.DataError: "data",
    errors.BackboneError: "failure",
    errors.BundleError: "failure",
    errors.ConfigError: "failure",
    errors.ConnectionFailedError: "failure",
    errors.EnrolmentError: "failure",
    errors.MachineError: "failure",
    errors.ProcessError: "failure",
    errors.QuorumError: "failure",
    errors.ReleaseError: "failure",
    errors.StoreError: "failure",
    errors.TrainingError: "failure",
}


def test_every_error_is_one_of_them() -> None:
    """A new error fails here until somebody has decided what a coordinator gets to see of it."""
    known = {
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, CollegiumError) and each is not CollegiumError
    }
    assert known == KINDS.keys()
    assert set(KINDS.values()) == set(get_args(RefusalKind))


@pytest.mark.parametrize("error", [*KINDS, ValueError], ids=lambda error: error.__name__)
def test_a_refusal_quotes_only_what_is_meant_for_the_coordinator(error: type[Exception]) -> None:
    answer = refusal(error("Expected one thing, but another came."), institution="bank", state=None)
    kind = KINDS.get(error, "failure") if issubclass(error, CollegiumError) else "failure"
    assert answer.kind == kind
    assert answer.reason == (UNSAID if kind in ("data", "failure") else "Expected one thing, but another came.")
