import pytest

from client.institution import Server
from shared.config import parse
from shared.errors import ConfigError


@pytest.mark.parametrize("address", ["fl.example.org:8443", "192.0.2.7:1", "[::1]:8443", "[2001:db8::192.0.2.7]:443"])
def test_addresses(address: str) -> None:
    assert parse(Server, {"address": address}, where="x").address == address


@pytest.mark.parametrize(
    "address",
    ["fl.example.org", "https://fl.example.org:8443", "::1:8443", "2001:db8::1", "[::1]", "[host]:8443", "a b:1"],
)
def test_what_is_no_address_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        parse(Server, {"address": address}, where="x")
