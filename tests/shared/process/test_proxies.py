import os

import httpx
import pytest

from shared.errors import ConfigError
from shared.process.flower import flower_environment
from shared.process.proxies import PROXIES, SPARED, loopback_environment, proxy_towards, without_proxies

GARBAGE = ["::::", "http://[", "http://h:port", "ftp://h:1", "socks9://h:1", "http://", "\x7f"]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *SPARED):
        monkeypatch.delenv(name, raising=False)


def proxy_of(url: str) -> object:
    """What a client that is made now would speak through; None if it speaks to the host itself."""
    with httpx.Client(verify=False) as client:
        return getattr(client._transport_for_url(httpx.URL(url))._pool, "_proxy_url", None)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", PROXIES)
@pytest.mark.parametrize("value", ["http://proxy.test:3128", *GARBAGE])
def test_clients_for_this_machine_are_made_without_a_proxy(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "[::1]")
    with without_proxies():
        assert proxy_of("https://127.0.0.1:1") is proxy_of("http://example.test") is None
    assert (os.environ[name], os.environ["NO_PROXY"]) == (value, "[::1]")


@pytest.mark.parametrize("value", GARBAGE)
@pytest.mark.parametrize("spared", ["", "[::1]", "::1/128,a b", "ü.test,*"])
def test_children_speak_to_this_machine_themselves(monkeypatch: pytest.MonkeyPatch, value: str, spared: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", value)
    monkeypatch.setenv("https_proxy", "proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", spared)
    for name, changed in loopback_environment().items():
        monkeypatch.setenv(name, changed)
    for host in ("127.0.0.1", "localhost", "[::1]"):
        assert proxy_of(f"https://{host}:8444") is proxy_of(f"http://{host}:1") is None
    assert (proxy_of("https://fl.example.test:8443") is None) == ("*" in spared)


def test_hosts_that_were_spared_stay_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("no_proxy", "inside.test")
    assert loopback_environment()["no_proxy"] == "inside.test,localhost,127.0.0.1,::1"
    monkeypatch.delenv("HTTPS_PROXY")
    monkeypatch.setenv("no_proxy", "[::1],fl.example.test")  # an HTTP client cannot be made with this one at all
    assert loopback_environment()["NO_PROXY"] == "::1,fl.example.test,localhost,127.0.0.1"


def test_flowers_processes_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    assert "NO_PROXY" not in flower_environment(tmp_path)  # type: ignore[arg-type]
    monkeypatch.setenv("ALL_PROXY", "::::")
    environment = flower_environment(tmp_path)  # type: ignore[arg-type]
    assert (environment["ALL_PROXY"], environment["NO_PROXY"]) == ("", "localhost,127.0.0.1,::1")


def test_the_way_to_the_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_towards("fl.example.test:8443") is None
    monkeypatch.setenv("HTTP_PROXY", "http://plain.test:1")
    assert proxy_towards("fl.example.test:8443") is None, "it is for http:// alone"
    monkeypatch.setenv("ALL_PROXY", "all.test:2")
    assert proxy_towards("fl.example.test:8443") == "http://all.test:2"
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.test:3128/")
    assert proxy_towards("fl.example.test:8443") == "http://proxy.test:3128"
    assert proxy_towards("[2001:db8::1]:8443") == "http://proxy.test:3128"
    assert proxy_towards("127.0.0.1:1") is proxy_towards("localhost:1") is proxy_towards("[::1]:1") is None
    monkeypatch.setenv("NO_PROXY", "example.test")
    assert proxy_towards("fl.example.test:8443") is None


@pytest.mark.parametrize("value", GARBAGE)
def test_what_is_no_proxy_is_named_before_anything_starts(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(ConfigError, match="HTTPS_PROXY") as caught:
        proxy_towards("fl.example.test:8443")
    assert "NO_PROXY" in str(caught.value)
    assert proxy_towards("localhost:8443") is None
