"""Promise: a bundle is as it was signed, or `verify` says that it is not.

`tests/shared/bundle/test_manifest.py` has every kind of change by itself; each check of `verify` that was taken out let
some of them through.
"""

from pathlib import Path

import pytest

from shared.bundle import manifest
from simulations.attacks.bundles import BYTES, pass_on_another_bundle


def test_nothing_that_was_changed_is_taken(tmp_path: Path) -> None:
    outcome = pass_on_another_bundle(tmp_path)
    assert outcome.attempts == BYTES + 13
    assert outcome.succeeded == 0


def test_the_attack_finds_what_is_let_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_is_as", lambda path, entry: True)
    monkeypatch.setattr("simulations.attacks.bundles.BYTES", 20)
    assert pass_on_another_bundle(tmp_path).succeeded > 0
