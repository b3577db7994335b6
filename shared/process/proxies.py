"""Proxies of the environment: never towards this machine, and towards the coordinator if the institution says so.

HTTP clients read `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` (or the same in small letters) when they are
made. Collegium's own processes speak to each other on loopback, where a proxy has no business: it would have to reach
back into this machine, and would see tokens.
"""

import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from threading import Lock
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from shared.errors import ConfigError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
SPARED = ("no_proxy", "NO_PROXY")
"""Variables with hosts that are reached without one; the first that is set counts."""

_environment = Lock()


@contextmanager
def without_proxies() -> Iterator[None]:
    """HTTP clients that are made in the block use no proxy, whatever the environment says."""
    with _environment:
        kept = {name: os.environ.pop(name) for name in (*PROXIES, *SPARED) if name in os.environ}
        try:
            yield
        finally:
            os.environ.update(kept)


def loopback_environment() -> dict[str, str]:
    """Variables for a child process that makes its clients by itself: no proxy for loopback, none that is no proxy.

    Returns:
        Variable names and values, to be laid over the parent's environment; none if that says nothing of proxies.
    """
    proxies = {name: os.environ[name] for name in PROXIES if os.environ.get(name)}
    spared = next((os.environ[name] for name in SPARED if os.environ.get(name)), "")
    if not proxies and not spared:
        return {}
    unusable = {name: "" for name, url in proxies.items() if _problem(url)}
    hosts = [host.strip(" []") for host in spared.split(",")]
    entries = ",".join(dict.fromkeys([*filter(_is_host, hosts), *LOOPBACK]))
    return unusable | dict.fromkeys(SPARED, entries)


def proxy_url(address: str) -> str | None:
    """As `proxy_towards`, with user and password: for the client that goes through it."""
    if proxy_towards(address) is None:
        return None
    proxies = getproxies_environment()
    return _with_scheme(next(proxies[name] for name in ("https", "all") if proxies.get(name)))


def proxy_towards(address: str) -> str | None:
    """The proxy by which requests over TLS go to an address.

    Args:
        address: `host:port`, the host of an IPv6 address in brackets.

    Returns:
        Its URL without user and password; None if there is none, as there never is towards this machine.

    Raises:
        ConfigError: What the environment names is no proxy.
    """
    host = address.rpartition(":")[0].strip("[]")
    proxies = getproxies_environment()
    name = next((name for name in ("https", "all") if proxies.get(name)), None)
    if name is None or _is_loopback(host) or proxy_bypass(host, proxies):
        return None
    if problem := _problem(proxies[name]):
        raise ConfigError(
            f"Expected the URL of a proxy in the variable {name.upper()}_PROXY, but it cannot be used ({problem}); "
            f"set it to http://HOST:PORT, or add {host} to NO_PROXY to reach the coordinator without a proxy."
        )
    scheme, _, place = _with_scheme(proxies[name]).partition("://")
    return f"{scheme}://{place.rpartition('@')[2].rstrip('/')}"


def _with_scheme(url: str) -> str:
    return url if "://" in url else f"http://{url}"


def _problem(url: str) -> str:
    """Why a URL is no proxy; nothing of the URL itself, which may hold a password."""
    import httpx  # half a second, and most environments name no proxy

    try:
        urlsplit(_with_scheme(url))  # stricter about brackets
        proxy = httpx.Proxy(_with_scheme(url))
    except (ValueError, httpx.InvalidURL):
        return "it is no URL of a proxy"
    if proxy.url.scheme.startswith("socks") and find_spec("socksio") is None:
        return "SOCKS needs `pip install httpx[socks]`"
    return "" if proxy.url.host else "it names no host"


def _is_host(entry: str) -> bool:
    """Whether an entry of NO_PROXY is one that HTTP clients understand; another one keeps them from being made."""
    import httpx

    with suppress(ValueError):
        ipaddress.IPv6Address(entry)
        return True
    try:
        return bool(entry) and bool(httpx.URL(entry if "://" in entry else f"all://*{entry}"))
    except httpx.InvalidURL:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
