"""docs/privacy.md, "At the enrolment door": an invitation lets one key in, once, and nobody speaks for another."""

from pathlib import Path

import pytest

from simulations.attacks import Attack
from simulations.attacks.enrolment import ATTACKS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_nobody_comes_in_by_what_was_another_s(tmp_path: Path, attack: Attack) -> None:
    outcome = attack.run(tmp_path)
    assert outcome.attempts > 0
    assert outcome.succeeded == 0, outcome.note
