"""What an institution's operator hears of, out of its own files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.agreement.approval import declined_file, keep_offer
from client.institution import Data, Institution, Runtime, Server
from client.leaving import outbox
from client.leaving.receipts import FILE
from client.watching import notices
from client.watching.metrics import Left
from client.watching.notices import Finder
from server.enrolment.authority import create_authority
from shared.federation import Federation, federation_toml


@pytest.fixture
def site(tmp_path: Path, tiny_federation: Callable[..., Federation]) -> Institution:
    (tmp_path / "state").mkdir()
    (tmp_path / "ca.crt").write_bytes(create_authority().certificate)
    (tmp_path / "federation.toml").write_text(federation_toml(tiny_federation()))
    return Institution(
        name="hospital",
        federation=tmp_path / "federation.toml",
        server=Server(ca=tmp_path / "ca.crt"),
        data={"entities": Data(train=tmp_path / "x.jsonl")},
        runtime=Runtime(state=tmp_path / "state"),
    )


def found(site: Institution) -> list[str]:
    return [each.title for each in Finder(site, "institution.toml", Left(site))(0.0)]


def test_an_update_that_waits(site: Institution, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[dict[str, Any]] = [
        {"id": "5c1e", "waiting": True, "until": "12:00"},
        {"id": "9d2f", "waiting": False, "until": "11:00"},
    ]
    monkeypatch.setattr(outbox, "waiting", lambda state: held)
    (notice,) = Finder(site, "institution.toml", Left(site))(0.0)
    assert notice.key == "held:5c1e"
    assert "collegium client outbox institution.toml --approve 5c1e" in notice.text


def test_a_budget_that_is_spent_until_something_is_trained_again(site: Institution) -> None:
    def receipt(kind: str, body: dict[str, str]) -> bytes:
        return json.dumps({"kind": kind, "bytes": 1, "body": json.dumps(body)}).encode() + b"\n"

    log = site.runtime.state / FILE
    log.write_bytes(receipt("refusal", {"kind": "policy"}))
    assert found(site) == []
    log.write_bytes(receipt("train", {}) + receipt("refusal", {"kind": "budget"}) + receipt("query", {}))
    assert found(site) == ["The privacy budget is exhausted"]
    log.write_bytes(receipt("refusal", {"kind": "budget"}) + receipt("train", {}))
    assert found(site) == []


def test_an_agreement_that_is_offered_until_it_is_declined(
    site: Institution, tiny_federation: Callable[..., Federation]
) -> None:
    offer = tiny_federation(rounds={"count": 7})
    keep_offer(site, offer)
    assert found(site) == ["A new agreement waits for your word"]
    declined_file(site).write_text(offer.digest)
    assert found(site) == []


def test_an_authority_that_ends_soon(site: Institution, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "authority_days", lambda certificates: 29)
    assert found(site) == ["The coordinator's authority ends soon"]
