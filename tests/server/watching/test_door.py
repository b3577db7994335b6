"""`/metrics` needs its own token, which opens nothing else, and is not at the public door."""

from collections.abc import Iterator

import httpx
import pytest

from server.home import ServerHome, read_settings
from shared.watching.token import token_of
from simulations.attacks.coordinator import trusting


@pytest.fixture
def operator(served_home: ServerHome) -> Iterator[httpx.Client]:
    port = read_settings(served_home).operator_port
    url, trusted = f"https://127.0.0.1:{port}", trusting(served_home)
    with httpx.Client(base_url=url, verify=trusted, trust_env=False) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_its_token_opens_it_and_nothing_else(served_home: ServerHome, operator: httpx.Client) -> None:
    token = token_of(served_home.metrics_token_file)
    for _ in range(2):
        answer = operator.get("/metrics", headers=bearer(token))
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain")
        assert 'collegium_process_resident_memory_bytes{process="superlink"}' in answer.text
    assert operator.post("/v1/control/list-nodes", headers=bearer(token)).status_code == 401
    assert operator.get("/v1/collegium/refused", headers=bearer(token)).status_code == 401


@pytest.mark.parametrize("shown", [None, "x"])
def test_without_it_nothing_is_told(operator: httpx.Client, shown: str | None) -> None:
    answer = operator.get("/metrics", headers={} if shown is None else bearer(shown))
    assert (answer.status_code, "collegium" in answer.text) == (401, False)


def test_the_public_door_has_none(served_home: ServerHome) -> None:
    port = read_settings(served_home).public_port
    with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=trusting(served_home), trust_env=False) as public:
        token = token_of(served_home.metrics_token_file)
        assert public.get("/metrics", headers=bearer(token)).status_code == 404
