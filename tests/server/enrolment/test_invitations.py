import stat
import threading
from pathlib import Path

import pytest

from server.enrolment.invitations import Invitations
from shared.errors import EnrolmentError, StoreError


@pytest.fixture
def invitations(tmp_path: Path) -> Invitations:
    return Invitations(tmp_path / "enrolment.db")


def test_an_invitation_is_taken_up_by_one_key_as_often_as_it_asks(invitations: Invitations) -> None:
    code = invitations.invite("hospital", seconds=60)
    assert list(invitations.open()) == ["hospital"]
    assert invitations.claim(code, "hospital", "key")
    assert not invitations.claim(code, "hospital", "key")
    assert not invitations.claim(code, "hospital", "key", now=1e12), "its answer may have been lost"
    with pytest.raises(EnrolmentError, match="by another key"):
        invitations.claim(code, "hospital", "other")
    assert invitations.open() == {}


def test_an_invitation_is_for_its_name_and_its_time(invitations: Invitations) -> None:
    code = invitations.invite("hospital", seconds=60, now=1000.0)
    with pytest.raises(EnrolmentError, match="none with this code"):
        invitations.claim(code, "bank", "key", now=1000.0)
    with pytest.raises(EnrolmentError, match="expired"):
        invitations.claim(code, "hospital", "key", now=1060.0)
    assert invitations.claim(code, "hospital", "key", now=1059.0)


def test_a_new_invitation_replaces_the_last_one_and_one_may_be_withdrawn(invitations: Invitations) -> None:
    first, second = invitations.invite("hospital", seconds=60), invitations.invite("hospital", seconds=60)
    with pytest.raises(EnrolmentError, match="another one since"):
        invitations.claim(first, "hospital", "key")
    invitations.withdraw("hospital")
    with pytest.raises(EnrolmentError, match="none with this code"):
        invitations.claim(second, "hospital", "key")


def test_of_many_who_come_at_once_one_gets_in(invitations: Invitations) -> None:
    code, claimed = invitations.invite("hospital", seconds=60), list[str]()

    def claim(key: str) -> None:
        try:
            invitations.claim(code, "hospital", key)
        except EnrolmentError:
            return
        claimed.append(key)

    threads = [threading.Thread(target=claim, args=(f"key {number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == 1


def test_only_the_hash_of_a_code_is_kept_in_a_file_of_its_owner_s(tmp_path: Path) -> None:
    file = tmp_path / "enrolment.db"
    code = Invitations(file).invite("hospital", seconds=60)
    assert code.encode() not in file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_departures_are_remembered_once(invitations: Invitations) -> None:
    invitations.note("hospital", "old", "rotated", successor="new")
    invitations.note("hospital", "new", "left")
    invitations.note("hospital", "new", "left")
    assert [(each.how, each.successor) for each in invitations.departures()] == [("rotated", "new"), ("left", None)]


def test_what_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "enrolment.db").write_text("junk" * 1000)
    with pytest.raises(StoreError, match=r"invitations in .*enrolment\.db"):
        Invitations(tmp_path / "enrolment.db").invite("hospital", seconds=60)
