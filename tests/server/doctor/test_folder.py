"""The coordinator's folder and machine: each check, well and not."""

import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from server.doctor import folder
from server.doctor.folder import (
    check_backbone,
    check_certificate,
    check_clock,
    check_flower,
    check_hosts,
    check_ports,
    check_store,
)
from server.enrolment import authority
from server.enrolment.certificates import renew
from server.home import ServerHome, read_settings
from server.opening import open_store
from server.store import SCHEMA_VERSION
from shared.federation import Federation
from shared.process.lock import only_one
from simulations.attacks.coordinator import forked


def test_hosts(home: ServerHome) -> None:
    settings = read_settings(home)
    assert check_hosts(home, settings).verdict == "ok"
    other = settings.model_copy(update={"hosts": ("fl.example.org",)})
    found = check_hosts(home, other)
    assert (found.verdict, "fl.example.org" in found.text) == ("warning", True)
    renew(home, other)
    assert check_hosts(home, other).text == "The server certificate names fl.example.org."
    home.server_certificate.write_text("no certificate")
    assert check_hosts(home, settings).verdict == "error"


@pytest.mark.parametrize(("days", "verdict"), [(100, "ok"), (10, "warning"), (-10, "error")])
def test_certificate(home: ServerHome, monkeypatch: pytest.MonkeyPatch, days: int, verdict: str) -> None:
    monkeypatch.setattr(authority, "SERVER_DAYS", days)
    monkeypatch.setattr(authority, "CLOCK_SKEW", timedelta(days=20))
    renew(home, read_settings(home))
    assert check_certificate(home).verdict == verdict


def test_ports_that_are_free_and_one_that_is_taken(home: ServerHome) -> None:
    settings = read_settings(home)
    assert [found.verdict for found in check_ports(home, settings)] == ["ok"]
    with socket.create_server(("127.0.0.1", settings.public_port)):
        (found,) = check_ports(home, settings)
    assert (found.verdict, "public_port" in found.text) == ("error", True)


def test_a_server_that_is_up_and_one_that_does_not_answer(home: ServerHome) -> None:
    settings = read_settings(home)
    with only_one(home.lock_file, serving="it", advice="stop it"):
        assert [found.verdict for found in check_ports(home, settings)] == ["warning", "warning"]
        with forked(home):
            door, tls = check_ports(home, settings)
            assert (door.check, door.verdict) == ("door", "warning")
            assert "no round could run now" in door.text, "a SuperLink alone has nobody who starts a run"
            assert (tls.check, tls.verdict) == ("tls", "ok")


def test_a_store_is_looked_at_and_not_made(home: ServerHome) -> None:
    settings = read_settings(home)
    assert check_store(home, settings).verdict == "ok"
    assert not (home.state / "collegium.db").exists()
    with open_store(home.root):
        pass
    assert check_store(home, settings).text == f"The store opens, of version {SCHEMA_VERSION}."
    engine = sa.create_engine(home.default_store_url)
    for version, verdict in ((SCHEMA_VERSION - 1, "warning"), (SCHEMA_VERSION + 1, "error")):
        with engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM schema_version"))
            connection.execute(sa.text(f"INSERT INTO schema_version VALUES ({version})"))
        assert check_store(home, settings).verdict == verdict
    engine.dispose()


@pytest.mark.parametrize("url", ["nonsense", "postgresql+nothing://a/b", "sqlite:////proc/none/collegium.db"])
def test_a_store_that_does_not_open(home: ServerHome, url: str) -> None:
    settings = read_settings(home).model_copy(update={"store_url": url})
    found = check_store(home, settings)
    assert found.verdict == ("ok" if url.startswith("sqlite") else "error")


def test_a_database_that_is_none(home: ServerHome) -> None:
    (home.state / "collegium.db").write_bytes(b"no database at all" * 100)
    assert check_store(home, read_settings(home)).verdict == "error"


def test_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    assert check_clock(None).verdict == check_clock(now - timedelta(days=1)).verdict == "ok"
    assert check_clock(now + timedelta(hours=1)).verdict == "error"
    for kept, said in ((True, "is kept right"), (False, "not known")):
        monkeypatch.setattr(folder, "_is_synchronised", lambda kept=kept: kept)
        assert said in check_clock(None).text


def test_backbone(home: ServerHome, tiny_federation: Callable[..., Federation], tmp_path: Path) -> None:
    federation = tiny_federation()

    def named(**change: str) -> Federation:
        return federation.model_copy(update={"backbone": federation.backbone.model_copy(update=change)})

    assert check_backbone(home, federation).verdict == "ok"
    assert check_backbone(home, named(sha256="0" * 64)).verdict == "error"
    assert check_backbone(home, named(name=str(tmp_path / "none"))).verdict == "error"


def test_flower(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_flower().verdict == "ok"
    monkeypatch.setattr(folder, "version", lambda _: "1.20.0")
    assert check_flower().verdict == "error"
