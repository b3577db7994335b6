"""Promise: no institution's counts weigh more than `rounds.max_share`, so that what one announces does not decide.

Seen to fail on the commit before `max_share`: the round was chosen in 3 of 3 attempts, the model taken in 6 of 6
(it moved all the way), and the mean stretched in 3 of 3.
"""

from pathlib import Path

import pytest

from simulations.attacks import Attack
from simulations.attacks.counts import ATTACKS


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_counts_decide_nothing_alone(attack: Attack, tmp_path: Path) -> None:
    outcome = attack.run(tmp_path)
    assert outcome.attempts >= 3
    assert outcome.succeeded == 0, outcome.note
