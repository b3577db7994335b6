"""Nothing is trained under an agreement that the site has not approved."""

from pathlib import Path

import pytest

from simulations.attacks import Attack
from simulations.attacks.agreement import ATTACKS


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_no_way_leads_around_the_approval(tmp_path: Path, attack: Attack) -> None:
    outcome = attack.run(tmp_path)
    assert outcome.attempts >= 8
    assert outcome.succeeded == 0
