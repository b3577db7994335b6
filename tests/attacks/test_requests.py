"""docs/privacy.md, "What a coordinator may ask": every field of a request has a type, a range and a right moment.

Seen to succeed at the commit before (4613869) with 151 of 251 requests under a method that never moves frozen weights
(138 answered, 36 moved them, 11 put an escape code into the site's log), and with 162 of 251 under one that does.
"""

from pathlib import Path

import pytest

from simulations.attacks import Attack
from simulations.attacks.requests import ATTACKS


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_no_wrong_request_is_answered_or_moves_anything(attack: Attack, tmp_path: Path) -> None:
    outcome = attack.run(tmp_path)
    assert outcome.attempts > 200
    assert (outcome.succeeded, outcome.note) == (0, ""), attack.promise
