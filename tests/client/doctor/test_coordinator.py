"""The way to the coordinator: a real door, a key that it knows, one that it does not, and one that was revoked."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from client.doctor import coordinator
from client.doctor.coordinator import check_authority, check_enrolled, look_at_coordinator
from client.institution import Data, Identity, Institution, Server
from client.keys import generate_node_key
from server.enrolment import authority
from server.enrolment.authority import create_authority
from server.enrolment.keys import read_public_key
from server.enrolment.members import revoke
from server.home import ServerHome, read_settings
from server.service.operator import OperatorClient
from shared.doctor.door import Door
from simulations.attacks.coordinator import forked, new_home

UP = Door("localhost:1", days=100, ahead=0.0, status=200)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHome]:
    """A folder that a real SuperLink serves."""
    folder = new_home(tmp_path_factory.mktemp("served") / "coordinator")
    with forked(folder):
        yield folder


def site_of(home: ServerHome, folder: Path) -> Institution:
    """A site with a key of its own."""
    generate_node_key(folder / "node.key")
    server = Server(address=f"localhost:{read_settings(home).public_port}", ca=home.ca_certificate)
    data = {"clauses": Data(train=folder / "train.jsonl")}
    return Institution(name="hospital", data=data, server=server, identity=Identity(key=folder / "node.key"))


def test_a_key_before_and_after_it_is_enrolled_and_once_it_is_revoked(home: ServerHome, tmp_path: Path) -> None:
    site = site_of(home, tmp_path)
    before = {finding.check: finding for finding in look_at_coordinator(site)}
    others = {check: finding.verdict for check, finding in before.items() if check not in ("enrolled", "door")}
    assert others == dict.fromkeys(("name", "tls", "authority", "clock"), "ok")
    assert "no round could run now" in before["door"].text, "a SuperLink alone has nobody who starts a run"
    assert before["enrolled"].verdict == "error"
    assert "node.pub" in before["enrolled"].advice
    with OperatorClient(home) as operator:
        operator.register_node("hospital", read_public_key(tmp_path / "node.pub"))
        known = look_at_coordinator(site)
        assert {found.check for found in known if found.verdict == "ok"} == {*others, "enrolled"}, known
        assert [node.status for node in operator.nodes()] == ["registered"], "asking changes nothing"
    revoke(home, "hospital")
    gone = look_at_coordinator(site)[-1]
    assert (gone.verdict, "revoked" in gone.text) == ("error", True)


def test_a_clock_that_is_wrong_is_told_apart_from_a_key(
    home: ServerHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_of(home, tmp_path)
    old = f"1 2020-01-01T00:00:00+00:00 {'0' * 32} {'0' * 64} {'A' * 16}"
    monkeypatch.setattr(coordinator, "sign_request", lambda *_: old)
    found = check_enrolled(site, Door(site.server.address, days=100, ahead=3600.0, status=200))
    assert (found.verdict, found.advice) == ("error", "See `clock`.")


def test_what_cannot_be_known_is_said(home: ServerHome, tmp_path: Path) -> None:
    site = site_of(home, tmp_path)
    assert check_enrolled(site, Door(site.server.address, unreachable="gone")).verdict == "warning"
    (tmp_path / "node.key").unlink()
    assert check_enrolled(site, UP).verdict == "warning"


@pytest.mark.parametrize(("days", "verdict"), [(100, "ok"), (10, "warning"), (-10, "error")])
def test_an_authority_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, verdict: str) -> None:
    monkeypatch.setattr(authority, "AUTHORITY_DAYS", days)
    monkeypatch.setattr(authority, "CLOCK_SKEW", timedelta(days=20))
    (tmp_path / "ca.crt").write_bytes(create_authority("of a test").certificate)
    data = {"clauses": Data(train=tmp_path / "train.jsonl")}
    site = Institution(name="hospital", data=data, server=Server(ca=tmp_path / "ca.crt"))
    assert check_authority(site).verdict == verdict
    (tmp_path / "ca.crt").write_text("no certificate")
    assert check_authority(site).verdict == "warning"
