import ipaddress
import stat
from pathlib import Path

import pytest
from cryptography import x509

from server.home import ServerHome, init_home, open_home, read_settings
from shared.errors import ConfigError
from shared.flower.superlink import load_superexec_auth_secret


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_for_the_owner_only(home: ServerHome) -> None:
    assert mode(home.secrets) == 0o700
    assert {path.name: mode(path) for path in home.secrets.iterdir()} == {
        "ca.key": 0o600,
        "server.key": 0o600,
        "server.crt": 0o600,
        "operator.token": 0o600,
        "superexec.secret": 0o600,
    }


def test_what_institutions_are_given_contains_no_key(home: ServerHome) -> None:
    assert [path.name for path in home.ca_certificate.parent.iterdir()] == ["ca.crt"]
    assert b"PRIVATE" not in home.ca_certificate.read_bytes()


def test_secrets_differ_between_folders_and_flower_can_read_its_own(tmp_path: Path) -> None:
    homes = [init_home(tmp_path / name, hosts=["a.example"], public_port=1, operator_port=2) for name in ("a", "b")]
    assert homes[0].operator_token != homes[1].operator_token
    assert len(homes[0].operator_token) >= 43
    secrets = [load_superexec_auth_secret(str(home.superexec_secret_file)) for home in homes]
    assert secrets[0] != secrets[1]
    assert all(secret is not None and len(secret) == 64 for secret in secrets)


@pytest.mark.parametrize("survivor", ["server.toml", "secrets", "public/ca.crt"])
def test_an_existing_folder_is_not_overwritten(home: ServerHome, survivor: str) -> None:
    before = home.ca_key.read_bytes()
    for name in {"server.toml", "public/ca.crt"} - {survivor}:
        (home.root / name).unlink()
    if survivor != "secrets":
        home.secrets.rename(home.root / "moved")
    with pytest.raises(ConfigError, match=survivor) as caught:
        init_home(home.root, hosts=["localhost"], public_port=8443, operator_port=8000)
    assert "collegium server up" in str(caught.value)
    kept = home.secrets if survivor == "secrets" else home.root / "moved"
    assert (kept / "ca.key").read_bytes() == before


def test_a_folder_with_only_the_federation_file_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "federation.toml").write_text("x = 1\n")
    home = init_home(tmp_path, hosts=["localhost"], public_port=8443, operator_port=8000)
    assert home.federation_file.read_text() == "x = 1\n"


def test_settings_are_read_back(tmp_path: Path) -> None:
    home = init_home(tmp_path, hosts=["fl.example.org", "192.0.2.7"], public_port=8443, operator_port=8000)
    settings = read_settings(home)
    assert settings.address == "fl.example.org:8443"
    assert (settings.public_host, settings.hosts) == ("0.0.0.0", ("fl.example.org", "192.0.2.7"))
    assert settings.store_url is None


@pytest.mark.parametrize(
    ("hosts", "bound"),
    [(["localhost"], "127.0.0.1"), (["127.0.0.1", "localhost"], "127.0.0.1"), (["[::1]", "localhost"], "::1")],
)
def test_a_loopback_coordinator_is_not_reachable_from_elsewhere(tmp_path: Path, hosts: list[str], bound: str) -> None:
    assert read_settings(init_home(tmp_path, hosts=hosts, public_port=1, operator_port=2)).public_host == bound


def test_ipv6_stands_in_brackets_before_a_port_only(tmp_path: Path) -> None:
    home = init_home(tmp_path, hosts=["[2001:db8::7]", "fl.example.org"], public_port=8443, operator_port=8000)
    settings = read_settings(home)
    assert (settings.hosts, settings.public_host) == (("2001:db8::7", "fl.example.org"), "::")
    assert settings.address == "[2001:db8::7]:8443"
    names = x509.load_pem_x509_certificate(home.server_certificate.read_bytes()).extensions
    shown = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert ipaddress.ip_address("2001:db8::7") in shown.get_values_for_type(x509.IPAddress)
    with pytest.raises(ConfigError, match="ports are not part of hosts"):
        init_home(tmp_path / "other", hosts=["fl.example.org:8443"], public_port=8443, operator_port=8000)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("colour = 1", "colour"),
        ("public_port = 0", "public_port"),
        ("public_port = 8000", "must differ"),
        ('hosts = ["a b"]', "hosts"),
        ("hosts = []", "hosts"),
        ("public_port =", "TOML"),
    ],
)
def test_wrong_settings_are_named(home: ServerHome, line: str, says: str) -> None:
    values = {"public_host": '"127.0.0.1"', "public_port": "8443", "operator_port": "8000", "hosts": '["localhost"]'}
    key, _, value = line.partition(" =")
    values[key] = value.strip()
    home.settings_file.write_text("".join(f"{name} = {text}\n" for name, text in values.items()))
    with pytest.raises(ConfigError, match=says) as caught:
        read_settings(home)
    assert "server.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_wrong_settings_at_once(home: ServerHome) -> None:
    home.settings_file.write_text('colour = 1\npublic_port = 0\nhosts = ["localhost"]\npublic_host = "127.0.0.1"\n')
    with pytest.raises(ConfigError) as caught:
        read_settings(home)
    assert all(name in str(caught.value) for name in ("colour", "public_port", "operator_port"))


def test_wrong_options_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="public_port"):
        init_home(tmp_path / "new", hosts=["localhost"], public_port=70000, operator_port=8000)
    assert not (tmp_path / "new").exists()


def test_open_home(home: ServerHome, tmp_path: Path) -> None:
    assert open_home(home.root) == home
    with pytest.raises(ConfigError, match="collegium server init"):
        open_home(tmp_path)
    home.server_key.unlink()
    with pytest.raises(ConfigError, match=r"server\.key is missing"):
        open_home(home.root)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Not a directory"):
        init_home(tmp_path / "file" / "sub", hosts=["localhost"], public_port=8443, operator_port=8000)
