"""docs/privacy.md, "At the coordinator's door": without an enrolled key nothing is read, and all has a limit.

Seen to fail at the commit before (4613869): 63 of 64 MiB of bodies were taken and lay in memory, 150 of 200 half
requests and all slow heads were held when the attack ended, 4 MiB of an endless head were taken, a recorded request was
answered again, also with another body and path, and 400 refused requests wrote 470 KiB into the log.
"""

from pathlib import Path

import pytest

from simulations.attacks import Attack
from simulations.attacks.door_stranger import ATTACKS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_stranger_gets_nothing_and_keeps_nobody_out(tmp_path: Path, attack: Attack) -> None:
    outcome = attack.run(tmp_path)
    assert outcome.attempts > 0
    assert outcome.succeeded == 0, outcome.note
