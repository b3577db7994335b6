"""What an institution has approved: its own word on the digest of a file that lies here, and nothing else."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from client.agreement.approval import (
    approve,
    approve_additions,
    decline,
    declined_file,
    keep_offer,
    next_file,
    read_agreements,
    take_up,
)
from client.institution import Institution, load_institution
from shared.errors import ConfigError, StoreError
from shared.federation import Federation, federation_toml, load_federation

Edit = Callable[..., Federation]


@pytest.fixture
def current(tiny_federation: Callable[..., Federation]) -> Federation:
    return tiny_federation(("hospital", "bank"))


@pytest.fixture
def edit(current: Federation) -> Edit:
    """The agreement with some keys of [rounds] changed."""

    def edit(**rounds: Any) -> Federation:
        return Federation.model_validate(
            current.model_dump(mode="json", exclude_none=True)
            | {"rounds": current.rounds.model_dump(mode="json", exclude_none=True) | rounds}
        )

    return edit


@pytest.fixture
def hospital(tmp_path: Path, current: Federation) -> Callable[..., Institution]:
    """Its file, with a policy."""

    def write(**policy: Any) -> Institution:
        (tmp_path / "federation.toml").write_text(federation_toml(current), encoding="utf-8")
        values = {"name": "hospital", "data": {"clauses": {"train": "c.jsonl"}}, "policy": policy}
        (tmp_path / "institution.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
        return load_institution(tmp_path / "institution.toml")

    return write


def test_what_is_approved_is_in_force_with_the_first_request_under_it(
    hospital: Callable[..., Institution], current: Federation, edit: Edit
) -> None:
    site, offer = hospital(), edit(patience=3)
    keep_offer(site, offer)
    found = read_agreements(site)
    assert found.offered == offer
    assert found.changes == ["rounds.patience: 0 -> 3"]
    assert not take_up(site, offer.digest), "offered is not approved"
    approve(site, offer.digest)
    assert read_agreements(site).approved == [current.digest, offer.digest]
    assert load_federation(site.federation) == current, "a run under the old one may end"
    assert not take_up(site, "0" * 64)
    assert take_up(site, offer.digest)
    assert load_federation(site.federation) == offer
    assert not next_file(site).exists()
    assert not take_up(site, current.digest), "there is no way back"
    assert read_agreements(site).approved == [offer.digest]


def test_only_all_digits_of_the_file_that_lies_here_approve_it(
    hospital: Callable[..., Institution], edit: Edit
) -> None:
    site, seen, swapped = hospital(), edit(patience=3), edit(patience=4)
    keep_offer(site, seen)
    keep_offer(site, swapped)
    for digest in (seen.digest, swapped.digest[:32], swapped.digest.upper(), "", "0" * 64):
        with pytest.raises(ConfigError, match=f"the one that was offered has {swapped.digest}"):
            approve(site, digest)
    assert not next_file(site).exists()


def test_an_offer_that_does_not_name_this_site_cannot_be_approved(
    hospital: Callable[..., Institution], edit: Edit
) -> None:
    site, offer = hospital(), edit(institutions=["bank", "clinic"])
    keep_offer(site, offer)
    with pytest.raises(ConfigError, match="this site has no part in it"):
        approve(site, offer.digest)


def test_pinned_digests_come_first(hospital: Callable[..., Institution], current: Federation, edit: Edit) -> None:
    offer = edit(count=9)
    site = hospital(federations=[current.digest], approve="additions")
    keep_offer(site, offer)
    with pytest.raises(ConfigError, match=f"add {offer.digest} there first"):
        approve(site, offer.digest)
    assert approve_additions(site) is None
    assert approve(hospital(federations=[current.digest, offer.digest]), offer.digest) == offer


def test_declined_and_taken_back(hospital: Callable[..., Institution], current: Federation, edit: Edit) -> None:
    site, offer = hospital(approve="additions"), edit(count=9)
    keep_offer(site, offer)
    decline(site, offer.digest)
    assert read_agreements(site).declined == offer.digest
    assert approve_additions(site) is None, "what was declined is not approved by itself"
    approve(site, offer.digest)
    assert read_agreements(site).declined is None
    decline(site, offer.digest)
    assert (read_agreements(site).coming, read_agreements(site).approved) == (None, [current.digest])
    assert not take_up(site, offer.digest)
    with pytest.raises(ConfigError, match="this one is; to stop taking part"):
        decline(site, current.digest)
    with pytest.raises(ConfigError, match="there is none such"):
        decline(site, "0" * 64)


def test_additions_need_no_word_where_the_policy_says_so(hospital: Callable[..., Institution], edit: Edit) -> None:
    more, other = edit(count=9, institutions=["hospital", "bank", "clinic"]), edit(count=9, patience=2)
    site = hospital()
    keep_offer(site, more)
    assert approve_additions(site) is None, "by default every change waits"
    site = hospital(approve="additions")
    keep_offer(site, other)
    assert approve_additions(site) is None
    keep_offer(site, more)
    assert approve_additions(site) == more
    keep_offer(site, edit(count=10, institutions=["hospital", "bank", "clinic"]))
    assert approve_additions(site) is not None, "counted from what is approved already"


def test_a_file_that_was_edited_by_hand_is_the_operators_word(hospital: Callable[..., Institution], edit: Edit) -> None:
    site, own = hospital(), edit(patience=5)
    site.federation.write_text(federation_toml(own), encoding="utf-8")
    assert take_up(site, own.digest)


def test_a_crash_between_the_writes_leaves_one_of_the_two(
    hospital: Callable[..., Institution], current: Federation, edit: Edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, offer = hospital(), edit(patience=3)
    keep_offer(site, offer)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shared.process.files.os.fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        approve(site, offer.digest)
    monkeypatch.undo()
    assert read_agreements(site).approved == [current.digest]
    approve(site, offer.digest)
    monkeypatch.setattr("client.agreement.approval.os.replace", full)
    with pytest.raises(StoreError, match="let the daemon write to that folder"):
        take_up(site, offer.digest)
    monkeypatch.undo()
    assert load_federation(site.federation) == current
    assert take_up(site, offer.digest)


def test_files_are_their_owners_alone(hospital: Callable[..., Institution], edit: Edit) -> None:
    os.umask(0o077)
    site, offer = hospital(), edit(patience=3)
    keep_offer(site, offer)
    decline(site, offer.digest)
    assert declined_file(site).parent.stat().st_mode & 0o077 == 0
