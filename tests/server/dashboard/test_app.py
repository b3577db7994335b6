"""The coordinator's page: nobody sees anything without a cookie, viewers do nothing, and words stay words."""

import datetime
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from server.dashboard import actions
from server.dashboard.address import new_viewer_token
from server.dashboard.app import Routes
from server.home import ServerHome
from server.opening import open_store
from server.service.operator import Node
from server.store import Reply
from server.store.releases import add_withdrawal
from shared.page.guard import POLICY
from shared.page.sessions import MOST_TRIES
from shared.state import State

HOST = "https://127.0.0.1:8444"
ORIGIN = {"origin": HOST}
PATHS = ["/page/", "/page/agreement", "/page/runs/x", "/page/runs/x/live", "/page/runs/x/curves/y"]
PATHS += [
    "/page/runs/x/bundle.zip",
    "/page/runs/x/federation.toml",
    *(f"/page/confirm/{each}" for each in actions.ACTIONS),
]
PATHS += ["/page/nothing", "/page", "/page/static", "/page/../page/agreement", "/page/static/../agreement"]
NAMES = ("hospital", "law-firm", "bank", "archive")
Fill = Callable[..., str]
SignIn = Callable[[str], str]


@pytest.fixture
def viewer(home: ServerHome, sign_in: SignIn) -> str:
    new_viewer_token(home)
    return sign_in(home.viewer_token_file.read_text().strip())


@pytest.fixture
def operator(home: ServerHome, sign_in: SignIn) -> str:
    return sign_in(home.operator_token)


def test_every_route_is_401_without_a_cookie_and_says_nothing(page: httpx.Client, home: ServerHome, fill: Fill) -> None:
    run = fill(home, NAMES, 4, 2)
    paths = [route.path for route in Routes(home, None, None).all()]  # type: ignore[arg-type, attr-defined]
    known = {path.replace("{run}", run).replace("{task}", "clauses").replace("{action}", "stop") for path in paths}
    for path in {*PATHS, *(f"/page{path}" for path in known)}:
        for cookie in ("", "__Secure-collegium=", "__Secure-collegium=guessed", "__Secure-collegium=%00", "\x01"):
            for method in ("GET", "HEAD", "POST"):
                answer = page.request(method, path, headers={"cookie": cookie, **ORIGIN}, data={"csrf": "x"})
                assert answer.status_code == 401, (path, method, cookie)
                assert run not in answer.text
                assert "hospital" not in answer.text
    assert page.put("/page/").status_code == 405


@pytest.mark.parametrize("path", ["/page/", "/page/sign-in", "/page/static/page.css", "/page/nothing"])
def test_every_answer_has_the_policy(page: httpx.Client, operator: str, path: str) -> None:
    for client in (page, httpx.Client(transport=page._transport, base_url=HOST)):
        headers = client.get(path).headers
        assert headers["content-security-policy"] == POLICY
        assert "unsafe" not in POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == ("no-cache" if "static" in path else "no-store")


def test_pages_have_no_script_and_no_style_of_their_own(
    page: httpx.Client, home: ServerHome, operator: str, fill: Fill
) -> None:
    fill(home, NAMES, 4, 2)
    for path in ("/page/", "/page/agreement", "/page/confirm/revoke?name=bank", "/page/sign-in"):
        text = page.get(path).text
        assert "<style" not in text
        assert " style=" not in text
        assert " on" not in " ".join(word for word in text.split() if word.startswith("on") and "=" in word)
        assert text.count("<script") == text.count('<script src="/page/static/')


def test_the_cookie_is_the_servers_alone_and_not_the_token(page: httpx.Client, home: ServerHome) -> None:
    answer = page.post("/page/sign-in", data={"token": home.operator_token}, headers=ORIGIN)
    cookie = answer.headers["set-cookie"]
    assert answer.headers["location"] == "/page/"
    for flag in ("HttpOnly", "Secure", "SameSite=strict", "Path=/page/", "__Secure-collegium="):
        assert flag in cookie
    assert home.operator_token not in cookie
    assert page.get("/page/").status_code == 200


def test_signing_out_ends_the_session_not_the_cookie_alone(page: httpx.Client, operator: str) -> None:
    kept = page.cookies["__Secure-collegium"]
    assert page.post("/page/sign-out", data={"csrf": operator}, headers=ORIGIN).status_code == 303
    assert page.get("/page/", headers={"cookie": f"__Secure-collegium={kept}"}).status_code == 401


def test_a_wrong_token_is_refused_and_attempts_are_few(page: httpx.Client, home: ServerHome) -> None:
    for _ in range(MOST_TRIES):
        assert page.post("/page/sign-in", data={"token": "guess"}, headers=ORIGIN).status_code == 401
    answer = page.post("/page/sign-in", data={"token": home.operator_token}, headers=ORIGIN)
    assert answer.status_code == 429
    assert "wait a minute" in answer.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "https://127.0.0.1:9999"}, 403),
        ({"origin": "http://127.0.0.1:8444"}, 403),
        ({"origin": "null"}, 403),
        ({}, 403),
        ({"origin": "https://evil.example:8444", "host": "evil.example:8444"}, 421),
        ({"origin": HOST, "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}, 403),
        ({"origin": HOST}, 303),
        ({"origin": "https://localhost:8444", "host": "localhost:8444"}, 303),
    ],
)
def test_another_sites_form_is_refused(
    page: httpx.Client, operator: str, headers: dict[str, str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = page.cookies["__Secure-collegium"]
    done: list[str] = []

    def stopped(what: str) -> str:
        done.append(what)
        return what

    monkeypatch.setattr("server.runs.steering.stop", lambda *_: stopped("it"))
    sent = {"cookie": f"__Secure-collegium={kept}", **headers}
    answer = page.post("/page/do/stop", data={"csrf": operator, "run": "x"}, headers=sent)
    assert answer.status_code == status
    assert bool(done) == (status == 303)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "[::1", "169.254.1.1", "localhost@evil.example"]
)
def test_a_host_that_others_have_named_is_refused(page: httpx.Client, operator: str, host: str) -> None:
    assert page.get("/page/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("given", [{}, {"csrf": ""}, {"csrf": "x"}, {"csrf": "é"}])
def test_a_form_without_its_sessions_mark_does_nothing(
    page: httpx.Client, operator: str, given: dict[str, str]
) -> None:
    assert page.post("/page/do/start", data=given, headers=ORIGIN).status_code == 403
    assert page.post("/page/do/start", content=b"csrf=" + b"x" * 20_000, headers=ORIGIN).status_code == 413


def test_viewers_look_and_do_nothing(page: httpx.Client, home: ServerHome, viewer: str, fill: Fill) -> None:
    run = fill(home, NAMES, 4, 2)
    text = page.get("/page/").text
    assert "hospital" in text
    assert "/confirm/" not in text
    assert "/confirm/" not in page.get("/page/agreement").text
    for name in actions.ACTIONS:
        assert page.get(f"/page/confirm/{name}").status_code == 403
        assert page.post(f"/page/do/{name}", data={"csrf": viewer, "run": run}, headers=ORIGIN).status_code == 403
    assert page.get(f"/page/runs/{run}/bundle.zip").status_code == 403
    assert page.get(f"/page/runs/{run}/federation.toml").status_code == 200


def test_what_an_institution_writes_stays_text(
    page: httpx.Client, home: ServerHome, operator: str, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil, steering = "<script>alert(1)</script>", "\x1b]0;owned\x07\u202e"
    run = fill(home, NAMES, 4, 2)
    with open_store(home.root) as store:
        refusal = Reply(3, "train", "bank", "refused", "policy", f"{evil}{steering}", software=evil)
        store.add_reply(run, refusal)
        store.add_event(run, f"<img src=x onerror=alert(1)> {steering}")
        store.update_run(run, reason=f'"><svg onload=alert(1)>{steering}')
    node = Node(7, evil, "online", f"SHA256:{evil}", datetime.datetime.now(datetime.UTC))
    monkeypatch.setattr("server.dashboard.viewing.OperatorClient", lambda home: Nodes([node]))
    answers = [page.get(path) for path in ("/page/", "/page/agreement", f"/page/confirm/revoke?name={evil}")]
    answers.append(page.get(f"/page/confirm/stop?run={evil}"))
    for answer in answers:
        assert answer.status_code == 200
        assert "&lt;script&gt;" in answer.text
        for raw in ("<script>", "<img src=x", "<svg", "\x1b", "\x07", "\u202e"):
            assert raw not in answer.text
    assert "&lt;img src=x" in answers[0].text
    assert "\N{REPLACEMENT CHARACTER}]0;owned" in answers[0].text


class Nodes:
    """In the place of the SuperLink."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes

    def nodes(self) -> list[Node]:
        return self._nodes

    def refused(self) -> list[dict[str, Any]]:
        return [{"node_id": 7, "limit": "requests", "times": 3}]


def test_an_action_is_asked_about_then_done_and_told(
    page: httpx.Client, home: ServerHome, operator: str, fill: Fill
) -> None:
    run = fill(home, NAMES, 4, 2)
    asked = page.get(f"/page/confirm/pause?run={run}").text
    assert "ends its round and then waits" in asked
    answer = page.post("/page/do/pause", data={"csrf": operator, "run": run}, headers=ORIGIN)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/page/runs/{run}")
    told = page.get(f"/page/runs/{run}").text
    assert f"Run {run} pauses at the end of its round." in told
    assert "running, to pause" in told
    assert "pauses at the end" not in page.get(f"/page/runs/{run}").text, "said once"
    page.post("/page/do/stop", data={"csrf": operator, "run": run}, headers=ORIGIN)
    with open_store(home.root) as store:
        assert store.run(run)["status"] == "stopped"
    page.post("/page/do/stop", data={"csrf": operator, "run": run}, headers=ORIGIN)
    assert "That was not done. Expected a run that goes on" in page.get("/page/").text


def test_a_release_that_its_agreement_would_refuse_is_not_ready(
    page: httpx.Client, home: ServerHome, operator: str, fill: Fill
) -> None:
    def ended(agreed: dict[str, Any] | None) -> str:
        run: str = fill(home, NAMES, 2, 2, agreed=agreed, status="completed")
        with open_store(home.root) as store:
            store.save_checkpoint(run, 2, State({"head/clauses/linear.bias": np.zeros(3, np.float32)}))
        return run

    run = ended(None)
    shown = page.get(f"/page/runs/{run}").text
    assert '<span class="chip good">ready</span>' in shown
    assert "bundle.zip" in shown
    run = ended({"release": {"max_membership_auc": 0.6}})
    with open_store(home.root) as store:
        add_withdrawal(store, NAMES[0], withdrawn=True)
    shown = page.get(f"/page/runs/{run}").text
    assert '<span class="chip bad">refused</span>' in shown
    assert "membership in clauses was not measured (max_membership_auc = 0.6" in shown
    assert "bundle.zip" not in shown
    assert f"{NAMES[0]} has withdrawn" in shown


def test_more_rounds_are_offered_from_the_page(page: httpx.Client, home: ServerHome, operator: str, fill: Fill) -> None:
    fill(home, NAMES, 4, 2)
    for wrong in ("", "0", "-1", "x", "1e3", "٣"):
        page.post("/page/do/extend", data={"csrf": operator, "rounds": wrong}, headers=ORIGIN)
        assert "That was not done" in page.get("/page/agreement").text
    page.post("/page/do/extend", data={"csrf": operator, "rounds": "3"}, headers=ORIGIN)
    told = page.get("/page/agreement").text
    assert "with 3 rounds more" in told
    assert "rounds 4 -&gt; 7" in told
    assert "hospital, law-firm, bank, archive" in told, "who has not answered"


def test_a_revocation_has_to_be_typed(
    page: httpx.Client, home: ServerHome, operator: str, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(home, NAMES, 4, 2)
    revoked: list[str] = []
    node = Node(7, "bank", "online", "SHA256:abc", None)

    def revoke(home: ServerHome, name: str) -> Node:
        revoked.append(name)
        return node

    monkeypatch.setattr("server.enrolment.members.revoke", revoke)
    for word in ("", "Bank", "hospital"):
        page.post("/page/do/revoke", data={"csrf": operator, "name": "bank", "word": word}, headers=ORIGIN)
    assert revoked == []
    page.post("/page/do/revoke", data={"csrf": operator, "name": "bank", "word": "bank"}, headers=ORIGIN)
    assert revoked == ["bank"]
    assert "Revoked bank" in page.get("/page/agreement").text


def test_without_a_run_the_page_offers_the_first(page: httpx.Client, home: ServerHome, operator: str) -> None:
    text = page.get("/page/").text
    assert "No run yet" in text
    assert "Start a run" in text
    assert page.get("/page/runs/unknown").status_code == 409


def test_fifty_institutions_and_five_hundred_rounds_are_less_than_300_kb(
    page: httpx.Client, home: ServerHome, operator: str, fill: Fill
) -> None:
    names = [f"institution-{number}" for number in range(50)]
    run = fill(home, names, 600, 500)
    first = page.get("/page/")
    assert "Round 501 of 600" in first.text
    task = "clauses"
    urls = [
        line.split('"')[1]
        for line in first.text.replace("src=", "\nsrc=").replace("href=", "\nhref=").splitlines()
        if "/static/" in line
    ]
    files = sum(len(page.get(url).content) for url in set(urls))
    assert len(set(urls)) >= 6
    drawn = page.get(f"/page/runs/{run}/curves/{task}")
    assert len(drawn.json()["lines"]) == 50
    assert len(drawn.json()["rounds"]) <= 150
    assert len(first.content) + files < 300_000, (len(first.content), files)
    assert len(drawn.content) < 100_000


def test_a_viewers_token_is_its_owners_alone_and_ends_the_earlier_one(page: httpx.Client, home: ServerHome) -> None:
    new_viewer_token(home)
    assert home.viewer_token_file.stat().st_mode & 0o777 == 0o600
    first = home.viewer_token_file.read_text().strip()
    assert page.post("/page/sign-in", data={"token": first}, headers=ORIGIN).status_code == 303
    assert page.get("/page/").status_code == 200
    new_viewer_token(home)
    assert page.get("/page/").status_code == 401
    assert page.post("/page/sign-in", data={"token": first}, headers=ORIGIN).status_code == 401
