"""Promise: the fingerprint covers every file of the backbone that is loaded, nothing else is loaded, no code is run.

Seen to fail on the commit before: 6 of 6 changed files passed the old fingerprint, which looked at one vocabulary and
one file of weights, and folders with pickled weights or code of their own were taken in 2 of 3.
"""

from pathlib import Path

import pytest

from simulations.attacks import Attack
from simulations.attacks.backbone import ATTACKS


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_changed_backbone_is_another(attack: Attack, tmp_path: Path) -> None:
    outcome = attack.run(tmp_path)
    assert outcome.attempts >= 3
    assert outcome.succeeded == 0, outcome.note
