"""docs/privacy.md, "At the coordinator's door": an institution has its share of the coordinator and no more."""

from pathlib import Path

import pytest

from simulations.attacks import Attack
from simulations.attacks.door_flood import ATTACKS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_institution_has_its_share_and_no_more(tmp_path: Path, attack: Attack) -> None:
    outcome = attack.run(tmp_path)
    assert outcome.attempts > 0
    assert outcome.succeeded == 0, outcome.note
