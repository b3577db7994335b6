"""Telling the coordinator what is approved here, and hearing what it offers: when there is a reason to, and signed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import tomli_w

from client.agreement import TOLD, asking
from client.agreement.approval import approve, next_file, read_agreements
from client.institution import Institution, load_institution
from client.keys import generate_node_key, read_private_key
from client.service import daemon
from client.watching.metrics import Link
from server.enrolment.authority import create_authority
from shared.errors import ConnectionFailedError, ProtocolError
from shared.federation import Federation, federation_toml
from shared.federation.offers import LONGEST, PATH, read_word, write_offer
from shared.signing import HEADER, read_signature


class Coordinator:
    """Answers what an institution asks, and keeps it."""

    def __init__(self) -> None:
        self.offer: Federation | None = None
        self.heard: list[httpx.Request] = []
        self.answer: Callable[[], httpx.Response] | None = None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.heard.append(request)
        if self.answer:
            return self.answer()
        return httpx.Response(200, json=write_offer(self.offer, held=read_word(request.content).holds))


@pytest.fixture
def coordinator(monkeypatch: pytest.MonkeyPatch) -> Coordinator:
    played = Coordinator()
    client = httpx.Client
    monkeypatch.setattr(
        asking, "_client", lambda address, trusted, transport: client(transport=httpx.MockTransport(played))
    )
    return played


@pytest.fixture
def current(tiny_federation: Callable[..., Federation]) -> Federation:
    return tiny_federation(("hospital", "bank"))


@pytest.fixture
def hospital(tmp_path: Path, current: Federation) -> Callable[..., Path]:
    def write(**policy: Any) -> Path:
        (tmp_path / "federation.toml").write_text(federation_toml(current), encoding="utf-8")
        (tmp_path / "ca.crt").write_bytes(create_authority().certificate)
        if not (tmp_path / "node.key").exists():
            generate_node_key(tmp_path / "node.key")
        values = {"name": "hospital", "data": {"clauses": {"train": "c.jsonl"}}, "policy": policy}
        (file := tmp_path / "institution.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
        return file

    return write


def changed(current: Federation, **rounds: Any) -> Federation:
    return current.model_copy(update={"rounds": current.rounds.model_copy(update=rounds)})


def said(request: httpx.Request) -> dict[str, Any]:
    word: dict[str, Any] = json.loads(request.content)
    return word


def test_what_is_said_is_signed_whole(
    hospital: Callable[..., Path], coordinator: Coordinator, current: Federation
) -> None:
    institution: Institution = load_institution(hospital())
    coordinator.offer = changed(current, patience=3)
    found = asking.ask(institution)
    assert found.offered == coordinator.offer
    (request,) = coordinator.heard
    signature = read_signature(request.headers[HEADER])
    key = read_private_key(institution.identity.key).public_key()
    assert signature.verify(key, "POST", PATH)
    assert request.url.path == PATH
    assert said(request) == {"approved": [current.digest], "declined": None, "holds": current.digest}
    asking.ask(institution)
    assert said(coordinator.heard[1])["holds"] == coordinator.offer.digest, "it is not sent again"


def test_it_asks_at_the_start_and_then_for_a_reason_only(
    hospital: Callable[..., Path], coordinator: Coordinator, current: Federation
) -> None:
    lines: list[str] = []
    watch = asking.Watch(hospital(), lines.append)
    watch.look()
    watch.look()
    watch.heard(None)
    watch.look()
    assert len(coordinator.heard) == 1
    coordinator.offer = offer = changed(current, patience=3)
    for _ in range(3):  # as with every answer
        watch.heard(offer.digest)
        watch.look()
    assert len(coordinator.heard) == 2
    assert lines == [
        f"{TOLD}The coordinator offers another agreement, {offer.digest}: read it by `collegium client agreement "
        f"{watch._file}`."
    ]
    approve(load_institution(watch._file), offer.digest)
    watch.look()
    assert said(coordinator.heard[2])["approved"] == [current.digest, offer.digest]
    watch.look()
    assert len(coordinator.heard) == 3
    assert len(lines) == 1


def test_additions_are_approved_and_told_at_once(
    hospital: Callable[..., Path], coordinator: Coordinator, current: Federation
) -> None:
    file = hospital(approve="additions")
    coordinator.offer = changed(current, institutions=("hospital", "bank", "clinic"))
    lines: list[str] = []
    asking.Watch(file, lines.append).look()
    assert lines == [
        f"{TOLD}The coordinator offers another agreement, {coordinator.offer.digest}, which only adds institutions or "
        "rounds: approved (policy.approve)."
    ]
    assert said(coordinator.heard[-1])["approved"] == [current.digest, coordinator.offer.digest]
    assert next_file(load_institution(file)).exists()


@pytest.mark.parametrize("answer", [b"", b"{" * 100_000, b"x" * (LONGEST + 10), b'{"offered": "x", "agreement": {}}'])
def test_nonsense_is_not_kept(hospital: Callable[..., Path], coordinator: Coordinator, answer: bytes) -> None:
    institution = load_institution(hospital())
    coordinator.answer = lambda: httpx.Response(200, content=answer)
    with pytest.raises(ProtocolError):
        asking.ask(institution)
    assert read_agreements(institution).offered is None


def test_a_refusal_and_a_lost_connection_are_one_sentence(
    hospital: Callable[..., Path], coordinator: Coordinator
) -> None:
    institution = load_institution(hospital())
    coordinator.answer = lambda: httpx.Response(401)
    with pytest.raises(ConnectionFailedError, match=r"it answered 401; it may not know this site's key"):
        asking.ask(institution)

    def lost() -> httpx.Response:
        raise httpx.ConnectError("no")

    coordinator.answer = lost
    with pytest.raises(ConnectionFailedError, match=r"what was decided here is kept"):
        asking.ask(institution)


def test_the_daemon_passes_it_on(hospital: Callable[..., Path]) -> None:
    told: list[str] = []
    daemon._announce_connection(load_institution(hospital()), told.append, Link(), iter([f"{TOLD}something new"]))
    assert told == ["something new"]
