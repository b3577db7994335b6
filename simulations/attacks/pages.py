"""The two pages, metrics and notices: read without a token, used by another site or a viewer, and written by others."""

import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from client.dashboard.serving import TOKEN, serve
from client.keys import generate_node_key
from client.leaving.receipts import Receipts, Release
from server.dashboard.actions import ACTIONS
from server.dashboard.address import new_viewer_token
from server.home import ServerHome, read_settings
from server.opening import open_store
from server.store import Reply
from server.watching.notices import Finder
from shared.federation import federation_toml
from shared.page.sessions import MOST_TRIES
from shared.watching.token import token_of
from simulations.attacks import Attack, Outcome
from simulations.attacks.coordinator import forked, new_home, trusting
from simulations.attacks.stage import tiny_federation, write_tiny_bert

LINE = "collegium_ready 1\n"
"""A line of metrics."""
MARKUP = "<script>alert(1)</script>"
WORDS = f'{MARKUP}"><img src=x onerror=alert(1)>\x1b]0;owned\x07\x1b[2J\u202e\n{LINE}'
"""What an institution or a coordinator writes where a reason or a name is expected."""
ALIVE = ("<script>alert", "<img src=x", "\x1b", "\x07", "\u202e")
"""Of that, what must not come out as it went in."""
GUESSES = 40
NAME = "hospital"
"""Of an institution; its own page names it to who is asked for the token."""
Form = dict[str, str]


@dataclass
class Page:
    """A page that is served, and how it is signed in to."""

    http: httpx.Client
    root: str
    entry: str
    token: str

    @property
    def origin(self) -> dict[str, str]:
        """What a browser says of the page's own forms."""
        return {"origin": str(self.http.base_url).rstrip("/")}

    def enter(self, token: str) -> httpx.Response:
        """Try to sign in."""
        answer = self.http.post(f"{self.entry}/sign-in", data={"token": token}, headers=self.origin)
        if answer.status_code == 303:
            self.root = answer.headers["location"].rstrip("/")
        return answer

    def mark(self, path: str) -> str:
        """What a form of the session must hold, which has been signed in to."""
        found = re.search(r'name="csrf" value="([^"]+)"', self.http.get(f"{self.root}{path}").text)
        assert found is not None
        return found[1]


@contextmanager
def coordinator(folder: Path) -> Iterator[tuple[ServerHome, str, Page]]:
    """A coordinator that runs, with a run in its store that an institution has written to; its page."""
    (folder / "bert").mkdir(parents=True)
    home = new_home(folder / "coordinator")
    federation = tiny_federation(write_tiny_bert(folder / "bert"), (NAME, "bank"), rounds={"count": 4})
    home.federation_file.write_text(federation_toml(federation), encoding="utf-8")
    with open_store(home.root) as store:
        run = store.create_run(federation)
        store.move_run(run, "running")
        store.add_reply(run, Reply(1, "train", "bank", "refused", "policy", WORDS, software=WORDS))
        store.add_event(run, WORDS)
        store.update_run(run, reason=WORDS)
    with forked(home), _client(f"https://127.0.0.1:{read_settings(home).operator_port}", home) as http:
        yield home, run, Page(http, "/page", "/page", home.operator_token)


def _client(url: str, home: ServerHome | None = None) -> httpx.Client:
    return httpx.Client(base_url=url, verify=trusting(home) if home else True, timeout=30.0, trust_env=False)


@contextmanager
def institution(folder: Path, words: str = "clauses") -> Iterator[Page]:
    """The page of an institution that has answered a request; the coordinator chose the task's name."""
    for name in ("bert", "site"):
        (folder / name).mkdir(parents=True)
    site = folder / "site"
    generate_node_key(site / "node.key")
    federation = tiny_federation(write_tiny_bert(folder / "bert"), (NAME, "bank"), rounds={"count": 4})
    (site / "federation.toml").write_text(federation_toml(federation), encoding="utf-8")
    file = site / "institution.toml"
    file.write_text(f'name = "{NAME}"\n[data.clauses]\ntrain = "a.jsonl"\n', encoding="utf-8")
    told = Release("train", "ab" * 32, 3, 0.5, "{}", "cd" * 32, words, 1, (words,), None, None)
    Receipts(site / "state", site / "node.key").append(told)
    over = threading.Event()
    serving_it = threading.Thread(
        target=serve, args=(file,), kwargs={"port": 0, "show": False, "stop": over, "announce": lambda line: None}
    )
    at = _printed(serving_it, site / "state" / TOKEN)
    try:
        with _client(at) as http:
            yield Page(http, "/guessed", "", (site / "state" / TOKEN).read_text(encoding="ascii").strip())
    finally:
        over.set()
        serving_it.join(20)


def _printed(thread: threading.Thread, token: Path) -> str:
    """Start the page; where it is, as this process's sockets say."""
    before = _listening()
    thread.start()
    end = time.monotonic() + 60
    while not token.exists() or not (ports := _listening() - before):
        assert time.monotonic() < end, "the page does not come up"
        time.sleep(0.05)
    return f"http://127.0.0.1:{min(ports)}"


def _listening() -> set[int]:
    """Ports on which something listens on loopback."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A" and row[1].startswith("0100007F")}


def read_without_a_token(folder: Path) -> Outcome:
    """Ask both pages and the metrics for everything, with no cookie, a guess, and what opens something else."""
    tries, told, wrong = 0, 0, ("", "guess", "%00", "\x01", "=;=")
    with coordinator(folder / "one") as (home, run, page):
        paths = ["/", "/agreement", "/nothing", *(f"/confirm/{action}" for action in ACTIONS)]
        paths += [f"/runs/{run}{end}" for end in ("", "/live", "/curves/clauses", "/bundle.zip", "/federation.toml")]
        metrics = token_of(home.metrics_token_file)
        for path in ("/metrics", *(f"/page{path}" for path in paths)):
            for shown in (*wrong, metrics, home.operator_token):
                if path == "/metrics" and shown == metrics:
                    continue
                headers = {"cookie": f"__Secure-collegium={shown}", "authorization": f"Bearer {shown or '-'}"}
                for method in ("GET", "POST"):
                    answer = page.http.request(method, path, headers=headers | page.origin)
                    tries, told = tries + 1, told + _tells(answer)
    with institution(folder / "two") as site:
        for path in ("/", "/live", "/receipts", "/agreement", "/confirm/approve", "/do/approve", "/metrics"):
            for root in ("", site.root, f"/{secrets.token_urlsafe(16)}", "/static/.."):
                for shown in (*wrong, site.token):
                    answer = site.http.get(f"{root}{path}", headers={"cookie": f"collegium-site={shown}"})
                    tries, told = tries + 1, told + _tells(answer)
    return Outcome(tries, told)


def _tells(answer: httpx.Response) -> bool:
    """Whether an answer is more than a refusal, and the page that asks for a token."""
    return answer.status_code < 400 or any(word in answer.text for word in ("bank", "clauses", "collegium_"))


def guess_a_token(folder: Path) -> Outcome:
    """Guess tokens as fast as a page answers; one that takes more than MOST_TRIES of them a minute has lost."""
    looked = 0
    with coordinator(folder / "one") as (_, _, page), institution(folder / "two") as site:
        for each in (page, site):
            answers = [each.enter(secrets.token_urlsafe(32)).status_code for _ in range(GUESSES)]
            looked += max(0, answers.count(401) - MOST_TRIES) + answers.count(303)
    return Outcome(2 * GUESSES, looked, f"{MOST_TRIES} a minute were looked at")


def use_an_operators_browser(folder: Path) -> Outcome:
    """Have a browser that is signed in stop a run and approve an update: forms, scripts and names of another site."""
    strange: list[dict[str, str]] = [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {},
        {"origin": "http://127.0.0.1:1"},
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"},
    ]
    tries, done = 0, 0
    with coordinator(folder / "one") as (home, run, page), institution(folder / "two") as site:
        for each, act, answered in ((page, "/do/stop", "/"), (site, "/do/verify", "/receipts")):
            each.enter(each.token)
            mark = each.mark(answered)
            for other in strange:
                own = {} if other == {} or "origin" in other else each.origin
                answer = each.http.post(f"{each.root}{act}", data={"run": run, "csrf": mark}, headers=own | other)
                tries, done = tries + 1, done + (answer.status_code < 400)
            for csrf in ("", "x", mark[::-1]):  # the page's own origin, and no form of the session
                answer = each.http.post(f"{each.root}{act}", data={"run": run, "csrf": csrf}, headers=each.origin)
                tries, done = tries + 1, done + (answer.status_code < 400)
            for other in ({"host": "evil.example"}, {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}):
                tries, done = tries + 1, done + (each.http.get(f"{each.root}/", headers=other).status_code < 400)
            framed = each.http.get(f"{each.root}/").headers
            tries += 1
            done += framed.get("x-frame-options") != "DENY" or "unsafe" in framed["content-security-policy"]
        with open_store(home.root) as store:
            done += store.run(run)["status"] != "running"
    return Outcome(tries, done)


def act_as_a_viewer(folder: Path) -> Outcome:
    """Carry out every action, and take the model along, with the token of those who may look."""
    tries, done = 0, 0
    with coordinator(folder) as (home, run, page):
        new_viewer_token(home)
        assert page.enter(home.viewer_token_file.read_text(encoding="ascii").strip()).status_code == 303
        mark = page.mark("/")
        for action in ACTIONS:
            form: Form = {"csrf": mark, "run": run, "name": NAME, "word": NAME, "rounds": "3"}
            answer = page.http.post(f"/page/do/{action}", data=form, headers=page.origin)
            tries, done = tries + 1, done + (answer.status_code < 400)
        answer = page.http.get(f"/page/runs/{run}/bundle.zip")
        bearer = {"authorization": f"Bearer {home.viewer_token_file.read_text(encoding='ascii').strip()}"}
        control = page.http.post("/v1/control/list-nodes", headers=bearer)
        metrics = page.http.get("/metrics", headers=bearer)
        done += sum(each.status_code < 400 for each in (answer, control, metrics))
        with open_store(home.root) as store:
            done += store.run(run)["status"] != "running"
    return Outcome(tries + 3, done)


def write_markup(folder: Path) -> Outcome:
    """An institution answers with markup, escape codes and lines of metrics; read what its coordinator is shown."""
    with coordinator(folder) as (home, run, page):
        page.enter(page.token)
        bearer = {"authorization": f"Bearer {token_of(home.metrics_token_file)}"}
        seen = [page.http.get(f"/page{path}").text for path in ("/", f"/runs/{run}", "/agreement")]
        seen.append(_first_event(page.http, f"/page/runs/{run}/live"))
        metrics = page.http.get("/metrics", headers=bearer).text
        seen.append(metrics)
        told = subprocess.run(
            [sys.executable, "-m", "collegium", "server", "status", str(home.root)],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        seen.append(told.stdout.replace("<", "&lt;"))  # a terminal knows no markup
        with open_store(home.root) as store:
            store.move_run(run, "failed")
            seen += [f"{each.title}\n{each.text}" for each in Finder(home, store)(0.0)]
    assert "owned" in seen[0]
    assert any(f"Run {run} has failed" in each for each in seen)
    return Outcome(len(seen) + 1, _alive(seen) + any(word in metrics for word in ("owned", LINE)))


def write_markup_to_a_site(folder: Path) -> Outcome:
    """A coordinator names runs and tasks by markup and escape codes; read what the institution's page shows."""
    with institution(folder, WORDS) as site:
        site.enter(site.token)
        asked = ("agree", "approve")
        seen = [site.http.get(f"{site.root}{path}").text for path in ("/", "/receipts", "/agreement")]
        seen += [site.http.get(f"{site.root}/confirm/{each}", params={"id": WORDS}).text for each in asked]
        seen.append(_first_event(site.http, f"{site.root}/live"))
    assert "owned" in seen[1]
    return Outcome(len(seen), _alive(seen))


def _alive(seen: Sequence[str]) -> int:
    """How many of what was shown hold what was written as it was written."""
    return sum(any(word in each for word in ALIVE) for each in seen)


def _first_event(http: httpx.Client, path: str) -> str:
    """What a page that follows is sent first."""
    read: list[Any] = []
    with http.stream("GET", path) as answer:
        for line in answer.iter_lines():
            read.append(line)
            if len(read) > 20 or (read[:-1] and not line):
                break
    return "\n".join(read)


LOCAL, SITE = "another user of the machine", "another site in the operator's browser"
CLOSED = "pages and metrics tell nothing without their token, and a token opens what it is for"
FORMS = "a page acts on its own forms alone, of its own session"
TEXT = "what others write is shown as text, and reaches no notice and no metric"
ATTACKS = (
    Attack("reading a page or metrics without the token", LOCAL, CLOSED, read_without_a_token),
    Attack("guessing the token of a page", LOCAL, CLOSED, guess_a_token),
    Attack("forms, scripts, frames and names of another site", SITE, FORMS, use_an_operators_browser),
    Attack("acting and taking the model with a viewer's token", "a viewer", CLOSED, act_as_a_viewer),
    Attack("markup, escape codes and lines of metrics in a reply", "an institution", TEXT, write_markup),
    Attack("markup and escape codes in names of runs and tasks", "a coordinator", TEXT, write_markup_to_a_site),
)
