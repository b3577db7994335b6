"""The institution's page: its operator's alone, true to the state folder, and without any text of a record."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from client.agreement.approval import keep_offer, read_agreements
from client.dashboard.app import Routes
from client.dashboard.children import Child, Told
from client.dashboard.viewing import forecast
from client.institution import load_institution
from client.leaving import outbox
from client.leaving.receipts import Release
from shared.errors import HeldError
from shared.federation import Federation
from shared.page.guard import POLICY

HOST, ROOT = "http://127.0.0.1:7000", "/secret-path"
ORIGIN = {"origin": HOST}
RELEASE = Release("train", "ab" * 32, 3, 0.5, "{}", "cd" * 32, "7", 1, ("<script>alert(1)</script>",), None, None)


@pytest.fixture(autouse=True)
def no_children(monkeypatch: pytest.MonkeyPatch) -> list[Child]:
    """Questions to the command line are noted, and not asked."""
    asked: list[Child] = []
    monkeypatch.setattr(Child, "ask", lambda child: asked.append(child))
    return asked


def test_every_route_is_401_without_a_cookie_and_tells_no_path(page: httpx.Client) -> None:
    paths = [route.path.replace("{action}", "approve") for route in Routes(None, _view()).all()]  # type: ignore[arg-type, attr-defined]
    for path in {*(f"{ROOT}{path}" for path in paths), "/", "/x", f"{ROOT}/sign-out", "/secret-pat/"}:
        for method in ("GET", "POST"):
            answer = page.request(method, path, headers={"cookie": "collegium-site=guess", **ORIGIN})
            assert answer.status_code == 401, path
            assert ROOT not in answer.text
            assert answer.headers["content-security-policy"] == POLICY
    assert page.get("/sign-in").status_code == 200
    assert page.get("/static/page.css").status_code == 200


def _view() -> object:
    class Nothing:
        def parts(self) -> dict[str, str]:
            return {}

    return Nothing()


def test_the_cookie_is_for_the_path_that_only_who_signs_in_is_told(page: httpx.Client) -> None:
    cookie = page.post("/sign-in", data={"token": "the-token"}, headers=ORIGIN).headers["set-cookie"]
    for flag in ("HttpOnly", "SameSite=strict", f"Path={ROOT}/"):
        assert flag in cookie
    assert "the-token" not in cookie
    assert (
        page.post("/sign-in", data={"token": "the-token"}, headers={"origin": "http://127.0.0.1:9"}).status_code == 403
    )
    assert page.get("/sign-in", headers={"host": "evil.example"}).status_code == 421


def test_the_front_page_tells_what_runs_and_what_left(page: httpx.Client, signed_in: str) -> None:
    text = page.get(f"{ROOT}/").text
    assert "Round 4 of 8" in text
    assert "daemon down" in text
    assert "7f3a21bc" in text
    assert "Nothing waits." in text
    assert "402.3 KiB" in text
    assert "The ledger is being read." in text


def test_a_receipt_that_was_edited_is_named(page: httpx.Client, signed_in: str, folder: Path) -> None:
    page.post(f"{ROOT}/do/verify", data={"csrf": signed_in}, headers=ORIGIN)
    assert "Verified: 9 receipts, none edited, missing or moved." in page.get(f"{ROOT}/receipts").text
    log = folder / "state" / "receipts.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"norm":0.5', b'"norm":0.1', 1))
    page.post(f"{ROOT}/do/verify", data={"csrf": signed_in}, headers=ORIGIN)
    assert "That was not done. Receipt 2 of" in page.get(f"{ROOT}/receipts").text


@pytest.mark.parametrize(("action", "ending"), [("approve", None), ("reject", "rejected it")])
def test_an_update_waits_for_the_word_that_the_page_gives(
    page: httpx.Client, signed_in: str, folder: Path, action: str, ending: str | None
) -> None:
    ends: list[str | None] = []

    def wait() -> None:
        try:
            outbox.wait(folder / "state", b"abc", RELEASE, seconds=30)
            ends.append(None)
        except HeldError as error:
            ends.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    end = time.monotonic() + 20
    while not (held := outbox.waiting(folder / "state")):
        assert time.monotonic() < end
        time.sleep(0.02)
    name = held[0]["id"]
    text = page.get(f"{ROOT}/").text
    assert f"/confirm/{action}?id={name}" in text
    assert "&lt;script&gt;" in text
    assert "<script>alert" not in text
    assert page.post(f"{ROOT}/do/{action}", data={"id": name}, headers=ORIGIN).status_code == 403, "without the mark"
    assert name in page.get(f"{ROOT}/confirm/{action}?id={name}").text
    page.post(f"{ROOT}/do/{action}", data={"csrf": signed_in, "id": name}, headers=ORIGIN)
    waiting.join(20)
    assert (ends[0] is None) if ending is None else (ending in str(ends[0]))
    page.post(f"{ROOT}/do/{action}", data={"csrf": signed_in, "id": "../../etc"}, headers=ORIGIN)
    assert "That was not done. Expected a held update" in page.get(f"{ROOT}/").text


def test_an_offer_is_read_then_approved(
    page: httpx.Client,
    signed_in: str,
    folder: Path,
    tiny_federation: Callable[..., Federation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offer = tiny_federation(("hospital", "bank"), rounds={"count": 11})
    institution = load_institution(folder / "institution.toml")
    keep_offer(institution, offer)
    monkeypatch.setattr("client.agreement.report.ask", lambda institution: None)
    text = page.get(f"{ROOT}/agreement").text
    assert offer.digest in text
    assert "rounds 8 -&gt; 11" in text
    page.post(f"{ROOT}/do/agree", data={"csrf": signed_in, "id": offer.digest}, headers=ORIGIN)
    assert "That was not done. Expected a file that this site can answer under" in page.get(f"{ROOT}/agreement").text
    file = folder / "institution.toml"
    file.write_text(file.read_text().split("[policy]")[0])
    page.post(f"{ROOT}/do/agree", data={"csrf": signed_in, "id": offer.digest}, headers=ORIGIN)
    assert "The coordinator knows." in page.get(f"{ROOT}/agreement").text
    assert read_agreements(institution).approved[-1] == offer.digest


def test_the_ledger_is_asked_when_something_has_changed(
    page: httpx.Client, signed_in: str, no_children: list[Child]
) -> None:
    page.get(f"{ROOT}/")
    page.get(f"{ROOT}/")
    assert len(no_children) == 1
    spent = {"fingerprint": "fa" * 32, "owners": 40, "epsilon": 2.6, "left": 0.4, "waiting": False}
    no_children[0].told = Told({"datasets": [spent], "scored": [], "max_epsilon": 3.0, "evaluation_epsilon": None})
    text = page.get(f"{ROOT}/").text
    assert "fafafafafafa" in text
    assert "below 20 % left" in text
    page.post(f"{ROOT}/do/check", data={"csrf": signed_in}, headers=ORIGIN)
    assert len(no_children) == 2


def test_a_forecast_goes_by_the_last_rounds_of_the_run() -> None:
    def of(run: str, *epsilons: float) -> list[dict[str, object]]:
        return [{"kind": "train", "run": run, "epsilon": each} for each in epsilons]

    assert forecast(of("a", 0.5, 1.0, 1.5), 1.6) == 3
    assert forecast([*of("a", 5.0), *of("b", 6.0, 6.1)], 0.95) == 9
    assert forecast(of("a", 0.5), 1.0) is None
    assert forecast(of("a", 0.5, 0.5), 1.0) is None
    assert forecast([], 1.0) is None
    assert forecast(of("a", 0.5, 1.0), None) is None
