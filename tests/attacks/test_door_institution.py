"""docs/privacy.md, "At the coordinator's door": an institution speaks for itself, to the coordinator alone.

Seen to fail at the commit before (4613869): 6 of 11 of the first attack got through (an instruction to another
institution and one to the coordinator, several messages at once, a reply in another's name, a reply with another's
objects, a heartbeat every half hour), 5 of 6 of the second (all but pulling another's messages), and a round of 6 s
was still held up when 21 s had passed.
"""

from pathlib import Path

import pytest

from simulations.attacks import Attack
from simulations.attacks.door_institution import ATTACKS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_institution_speaks_for_itself(tmp_path: Path, attack: Attack) -> None:
    outcome = attack.run(tmp_path)
    assert outcome.attempts > 0
    assert outcome.succeeded == 0, outcome.note
