"""Certificates over time: renewed before they end, for new hosts, by a new authority; with crashes between steps."""

import ssl
from pathlib import Path

import pytest

from server.enrolment import authority as issuing
from server.enrolment import certificates
from server.enrolment.certificates import (
    authority_of,
    begin_authority,
    complete,
    finish_authority,
    keep_good,
    look,
    renew,
    server_certificate,
)
from server.home import ServerHome, init_home, open_home, read_settings
from shared.enrolment.certificates import fingerprint, is_issued_by, read_certificates
from shared.errors import ConfigError


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    return init_home(tmp_path / "coordinator", hosts=["fl.example.org"], public_port=1, operator_port=2)


def check_pair(home: ServerHome) -> None:
    """The certificate and the key belong together, and to the authority."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(home.server_certificate, home.server_key)
    assert is_issued_by(server_certificate(home), authority_of(home))


class DiedError(BaseException):
    """What no handler takes: as if the process were killed."""


def dying(monkeypatch: pytest.MonkeyPatch, module: object, name: str, after: int) -> None:
    """Let the process die before the call of a function that comes after so many others."""
    real, calls = getattr(module, name), 0

    def call(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls > after:
            raise DiedError
        return real(*arguments, **named)

    monkeypatch.setattr(module, name, call)


def test_a_certificate_is_left_alone_while_it_is_good(home: ServerHome) -> None:
    before = home.server_certificate.read_bytes()
    assert keep_good(home, read_settings(home)) is None
    assert home.server_certificate.read_bytes() == before
    assert look(home).warnings() == []


def test_edited_hosts_are_in_the_certificate_after_the_next_start(home: ServerHome) -> None:
    text = home.settings_file.read_text().replace('"fl.example.org"', '"fl.example.org", "2001:db8::1"')
    home.settings_file.write_text(text)
    assert "hosts" in str(keep_good(home, read_settings(home)))
    assert "2001:db8::1" in certificates._names(server_certificate(home))
    check_pair(home)
    assert keep_good(home, read_settings(home)) is None


def test_one_that_ends_soon_is_renewed(home: ServerHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuing, "SERVER_DAYS", 20)
    renew(home, read_settings(home))
    (warning,) = look(home).warnings()
    assert "ends in 19 days" in warning
    assert "rotate-certificate" in warning
    monkeypatch.undo()
    before = server_certificate(home)
    assert "ends in 19 days" in str(keep_good(home, read_settings(home)))
    assert look(home).server > 800
    assert server_certificate(home).public_key() != before.public_key()
    check_pair(home)


def test_an_authority_that_ends_soon_is_spoken_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuing, "AUTHORITY_DAYS", 10)
    home = init_home(tmp_path / "short", hosts=["localhost"], public_port=1, operator_port=2)
    assert any("authority ends in 9 days" in text for text in look(home).warnings())


@pytest.mark.parametrize(
    ("name", "after"),
    [("write_new", 0), ("write_new", 1), ("sync_folder", 0), ("sync_folder", 1), ("sync_folder", 2)],
)
def test_a_renewal_that_dies_anywhere_leaves_a_pair_that_fits(
    home: ServerHome, monkeypatch: pytest.MonkeyPatch, name: str, after: int
) -> None:
    with monkeypatch.context() as patch:
        dying(patch, certificates, name, after)
        with pytest.raises(DiedError):
            renew(home, read_settings(home))
    complete(home)
    check_pair(home)
    assert not list(home.secrets.glob("next-*"))
    renew(home, read_settings(home))
    check_pair(home)


def test_a_half_written_certificate_is_not_used(home: ServerHome) -> None:
    (home.secrets / "next-server.key").write_bytes(b"half")
    (home.secrets / "next-server.crt").write_bytes(b"-----BEGIN CERT")
    complete(home)
    check_pair(home)


def test_an_authority_is_replaced_while_sites_trust_both(home: ServerHome) -> None:
    settings, old = read_settings(home), authority_of(home)
    with pytest.raises(ConfigError, match="rotate-authority"):
        finish_authority(home, settings)
    begin_authority(home)
    given = home.ca_certificate.read_bytes()
    begin_authority(home)
    assert home.ca_certificate.read_bytes() == given, "a second time changes nothing"
    assert authority_of(home) == old
    assert len(read_certificates(given)) == 2
    finish_authority(home, settings)
    new = authority_of(home)
    assert fingerprint(new) != fingerprint(old)
    assert fingerprint(new) in map(fingerprint, read_certificates(given))
    assert len(read_certificates(home.ca_certificate.read_bytes())) == 1
    assert not home.next_ca_key.exists()
    check_pair(home)
    renew(home, settings)
    check_pair(home)
    open_home(home.root)


@pytest.mark.parametrize("name", ["write_new", "write_synced", "sync_folder", "renew"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_change_of_authority_that_dies_anywhere_goes_on(
    home: ServerHome, monkeypatch: pytest.MonkeyPatch, name: str, after: int
) -> None:
    settings = read_settings(home)
    with monkeypatch.context() as patch:
        dying(patch, certificates, name, after)
        try:
            begin_authority(home)
            finish_authority(home, settings)
        except DiedError:
            pass
    complete(home)
    check_pair(home)
    if len(read_certificates(home.ca_certificate.read_bytes())) > 1 or home.next_ca_key.exists():
        begin_authority(home)
        finish_authority(home, settings)
    check_pair(home)
    assert len(read_certificates(home.ca_certificate.read_bytes())) == 1


def test_certificates_that_do_not_fit_are_one_sentence(home: ServerHome, tmp_path: Path) -> None:
    other = init_home(tmp_path / "other", hosts=["localhost"], public_port=1, operator_port=2)
    home.ca_certificate.write_bytes(other.ca_certificate.read_bytes())
    with pytest.raises(ConfigError, match="issued by the authority"):
        authority_of(home)
    with pytest.raises(ConfigError, match="the key of a certificate"):
        renew(home, read_settings(home))
    home.ca_certificate.write_text("junk")
    with pytest.raises(ConfigError, match="something else"):
        look(home)
