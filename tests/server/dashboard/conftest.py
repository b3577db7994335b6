"""A coordinator's folder with a run in its store, and its page without a server around it."""

import datetime
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from server.dashboard.app import coordinator_page
from server.home import ServerHome
from server.opening import open_store
from server.store import replies, rounds, scores, spending
from shared.federation import Federation, federation_toml
from shared.page.sessions import Sessions
from shared.tasks import build_task
from simulations.attacks.coordinator import new_home

HOST = "https://127.0.0.1:8444"


@pytest.fixture(scope="session")
def fill(tiny_federation: Callable[..., Federation]) -> Callable[..., str]:
    """Writes a run that has come so far into a coordinator's folder; the run."""

    def fill(
        home: ServerHome,
        names: Sequence[str],
        count: int,
        done: int,
        *,
        agreed: dict[str, Any] | None = None,
        **more: Any,
    ) -> str:
        federation = tiny_federation(tuple(names), rounds={"count": count}, **(agreed or {}))
        home.federation_file.write_text(federation_toml(federation))
        metrics = {name: build_task(name, spec).metric for name, spec in federation.tasks.items()}
        with open_store(home.root) as store:
            run = store.create_run(federation)
            store.move_run(run, "running")
            store.update_run(run, asking=whom(done + 1, names))
            told: dict[Any, list[dict[str, Any]]] = {table: [] for table in (replies, scores, rounds, spending)}
            for number in range(1, done + 1):
                told[rounds].append({"run": run, "round": number, "seconds": 30.0, "score": score(number, 0)})
                for index, name in enumerate(names):
                    away = index == 3 and number > done - 2
                    for kind in ("train", "evaluate"):
                        told[replies].append(reply(run, number, kind, name, away))
                    for task, metric in metrics.items():
                        value = score(number, index)
                        told[scores].append(scored(run, number, "validation", name, (task, metric), value))
                    if number == done:
                        told[spending].append({"run": run, "round": number, "institution": name, "epsilon": 1.25})
                        told[scores] += [scored(run, 0, "test", name, each, 0.2) for each in metrics.items()]
            with store._writing("fill") as connection:
                for table, rows in told.items():
                    if rows:
                        connection.execute(sa.insert(table), rows)
            store.add_event(run, "Method: fedavg (the default)")
            if more:
                store.update_run(run, **more)
        return run

    return fill


def whom(round: int, names: Sequence[str]) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(minutes=30)
    moments = {"since": now.isoformat(timespec="seconds"), "until": until.isoformat(timespec="seconds")}
    return {"round": round, "kind": "train", "names": sorted(names), "after": 0, **moments}


def score(number: int, index: int) -> float:
    return 0.85 - 0.5 / (1 + number / 8) - 0.004 * ((index * 7) % 23)


def reply(run: str, number: int, kind: str, name: str, away: bool) -> dict[str, Any]:
    status = {"status": "missing", "reason": "not online when the round began"} if away else {"status": "ok"}
    sizes = {"bytes_up": 0 if away else 400_000, "bytes_down": 500_000, "seconds": 21.5}
    about = {"refusal": None, "reason": None, "examples": None, "losses": None, "software": "0.1.0"}
    return {"run": run, "round": number, "kind": kind, "institution": name} | about | sizes | status


def scored(run: str, number: int, split: str, name: str, task: tuple[str, str], value: float) -> dict[str, Any]:
    key = {"run": run, "round": number, "split": split, "institution": name, "task": task[0]}
    return {**key, "metric": task[1], "value": value, "examples": 40}


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    return new_home(tmp_path / "coordinator", "")


@pytest.fixture
def page(home: ServerHome, asking: Callable[..., httpx.Client]) -> Iterator[httpx.Client]:
    """Nobody has signed in."""
    with asking(coordinator_page(home), HOST) as client:
        yield client


SignIn = Callable[[str], str]


@pytest.fixture
def sign_in(page: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> SignIn:
    """Signs in with a token; what every form of the session must hold."""
    opened: list[str] = []
    find = Sessions.find

    def noting(sessions: Sessions, value: str) -> Any:
        session = find(sessions, value)
        if session:
            opened.append(session.csrf)
        return session

    monkeypatch.setattr(Sessions, "find", noting)

    def sign_in(token: str) -> str:
        answer = page.post("/page/sign-in", data={"token": token}, headers={"origin": HOST})
        assert answer.status_code == 303, answer.text
        front = page.get("/page/")
        assert front.status_code == 200, front.text
        return opened[-1]

    return sign_in
