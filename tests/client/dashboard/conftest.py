"""A site's folder with receipts, and its page without a server around it."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from client.dashboard.app import institution_page
from client.keys import generate_node_key
from client.leaving.receipts import Receipts, Release
from shared.federation import Federation, federation_toml
from shared.page.sessions import Sessions

HOST = "http://127.0.0.1:7000"
TOKEN, ROOT = "the-token", "/secret-path"
RELEASE = Release("train", "ab" * 32, 412_000, 0.5, "{}", "cd" * 32, "7f3a21bc", 1, ("clauses",), 0.1, (1, "ee" * 32))  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path, tiny_federation: Callable[..., Federation]) -> Path:
    """Of a site that has answered four rounds of eight."""
    return write_site(tmp_path, tiny_federation(("hospital", "bank"), rounds={"count": 8}))


def write_site(folder: Path, federation: Federation, rounds: int = 4) -> Path:
    generate_node_key(folder / "node.key")
    (folder / "federation.toml").write_text(federation_toml(federation))
    text = 'name = "hospital"\n[data.clauses]\ntrain = "a.jsonl"\n[policy]\nmax_epsilon = 3.0\n'
    (folder / "institution.toml").write_text(text)
    written = Receipts(folder / "state", folder / "node.key")
    written.append(dataclasses.replace(RELEASE, kind="query", round=None, norm=None, epsilon=None, bytes=310))
    for number in range(1, rounds + 1):
        written.append(dataclasses.replace(RELEASE, round=number, epsilon=0.25 * number))
        about: dict[str, Any] = {"round": number, "norm": None, "epsilon": None, "bytes": 240}
        written.append(dataclasses.replace(RELEASE, kind="evaluate", **about))
    return folder


@pytest.fixture
def page(folder: Path, asking: Callable[..., httpx.Client]) -> Iterator[httpx.Client]:
    """Nobody has signed in."""
    app = institution_page(folder / "institution.toml", ROOT, TOKEN, folder / "state" / "page.token")
    with asking(app, HOST) as client:
        yield client


@pytest.fixture
def signed_in(page: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> str:
    """Has signed in; what every form must hold."""
    opened: list[str] = []
    find = Sessions.find

    def noting(sessions: Sessions, value: str) -> Any:
        session = find(sessions, value)
        if session:
            opened.append(session.csrf)
        return session

    monkeypatch.setattr(Sessions, "find", noting)
    answer = page.post("/sign-in", data={"token": TOKEN}, headers={"origin": HOST})
    assert (answer.status_code, answer.headers["location"]) == (303, f"{ROOT}/")
    assert page.get(f"{ROOT}/agreement").status_code == 200
    return opened[-1]
