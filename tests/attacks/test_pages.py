"""Promises of docs/coordinator.md and docs/institution.md on the two pages, metrics and notices, on real servers."""

from pathlib import Path

import pytest

from simulations.attacks import Attack
from simulations.attacks.pages import ATTACKS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_pages_keep_to_who_may_and_to_text(tmp_path: Path, attack: Attack) -> None:
    outcome = attack.run(tmp_path)
    assert outcome.attempts > 0
    assert outcome.succeeded == 0, outcome.note
