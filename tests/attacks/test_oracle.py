"""docs/privacy.md, "Numbers that are still released": what a coordinator may ask for is a short list, once each.

All four were seen to succeed at the commit before (4613869): 24 of 24 memberships with their labels read under
`metrics = "none"`, 17 of 17 further states scored, 6 of 6 owners told by a reply's kind, 6 of 6 honest rounds spoilt
or paid for twice.
"""

from pathlib import Path

import pytest

from simulations.attacks import Attack
from simulations.attacks.oracle import ATTACKS


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_no_answer_is_an_oracle(attack: Attack, tmp_path: Path) -> None:
    outcome = attack.run(tmp_path)
    assert outcome.attempts > 0
    assert outcome.succeeded == 0, attack.promise
