"""Promise: the coordinator learns no single update, even if it cheats and one of four institutions helps it.

Seen to fail at the commit before, with the same updates, four institutions and a threshold of 3: weights (0, 1, 0) gave
the victim's update (correlation 1.000), as did counts of 10^6 against 10, in the adapter and in a head that it alone
held; a peer's key in another form (negated, uncompressed, in capitals, after a space) passed for the helper's and gave
it too (1.000 each); the coordinator's own keys in the place of the peers' gave it (1.000); one malformed share made all
three others give up. Counts were not signed, two survivors' lists were not compared, and what was masked did not depend
on who takes part.
"""

from pathlib import Path

import pytest

from client.round import secagg as site
from shared.secagg import view
from shared.weighting import Shares, sum_shares
from simulations.attacks import Attack
from simulations.attacks import secagg as attacks


@pytest.mark.parametrize("attack", attacks.ATTACKS, ids=lambda attack: attack.name)
def test_no_single_update_is_seen(attack: Attack, tmp_path: Path) -> None:
    outcome = attack.run(tmp_path)
    assert outcome.attempts
    assert outcome.succeeded == 0, outcome


def test_signatures_are_what_refuses_false_keys_and_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without them the attacks succeed, so that nothing else refused them by chance."""
    monkeypatch.setattr(view, "is_signed", lambda line, message, signature: True)
    for attack in (attacks.own_keys, attacks.false_weights, attacks.replayed):
        assert attack(tmp_path).succeeded > 0


def test_a_negated_key_is_refused_by_its_x_coordinate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(view, "x_of", lambda key: (key.public_numbers().x, key.public_numbers().y))
    assert attacks.copied_keys(tmp_path).succeeded > 0


def test_a_heavy_one_is_seen_where_the_share_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def whole(*args: object, **kwargs: object) -> Shares:
        return sum_shares(*args, **{**kwargs, "most": 1.0})  # type: ignore[arg-type]

    monkeypatch.setattr(site, "sum_shares", whole)
    monkeypatch.setattr(site, "check_shares", lambda *args, **kwargs: None)
    assert attacks.heavy(tmp_path).succeeded > 0


def test_survivors_are_what_two_thirds_have_signed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(site, "is_signed", lambda line, message, signature: True)
    assert attacks.different_views(tmp_path).succeeded > 0
