"""The door: answers, refusals, limits, and that nothing of a text is told to others."""

import asyncio
import json
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

from client.answers import masking
from client.data.masking.finding import Found
from client.optimize.making import Wanted, optimize
from client.serving import asking
from client.serving.app import make_app
from client.serving.models import Served, load
from client.serving.service import Service
from client.serving.settings import Settings, named
from shared.errors import ConfigError
from shared.inference.model import ReleasedModel
from simulations.attacks.stage import EVERY_QUESTION, EVERY_TASK

BASE = "http://127.0.0.1:8080"
SECRET = "Mrs Xylophone has gout"
PREDICT, METRICS, ADMIN, SLOW = ("t" * 31 + letter for letter in "abcd")
Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def settings(everything: Path) -> Settings:
    return Settings((("every", everything),), precision="float32", most_bytes=20_000, most_texts=8, queue=64)


def serving(settings: Settings, model: ReleasedModel) -> Iterator[Service]:
    service = Service(settings, {name: Served("every", model, name) for name in model.tasks})
    service.start()
    yield service
    service.close()


@pytest.fixture(scope="module")
def service(settings: Settings, released: ReleasedModel) -> Iterator[Service]:
    yield from serving(settings, released)


@pytest.fixture(scope="module")
def guarded(settings: Settings, released: ReleasedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """With tokens."""
    file = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    file.write_text(
        f'[app]\ntoken = "{PREDICT}"\n[watch]\ntoken = "{METRICS}"\nrole = "metrics"\n'
        f'[ops]\ntoken = "{ADMIN}"\nrole = "admin"\n[slow]\ntoken = "{SLOW}"\ntexts_per_minute = 3\n'
    )
    file.chmod(0o600)
    yield from serving(replace(settings, tokens=file), released)


@pytest.fixture(scope="module")
def ask(service: Service, asking: Callable[[ASGIApp, str], httpx.Client]) -> Ask:
    return asking(make_app(service), BASE).request


@pytest.fixture(scope="module")
def ask_guarded(guarded: Service, asking: Callable[[ASGIApp, str], httpx.Client]) -> Ask:
    """Asks with a token."""
    client = asking(make_app(guarded), "http://model.example")

    def request(method: str, path: str, token: str | None, **more: Any) -> httpx.Response:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return client.request(method, path, headers=headers, **more)

    return request


@pytest.mark.parametrize("task", EVERY_TASK)
def test_a_task_is_answered_as_the_model_does(ask: Ask, released: ReleasedModel, task: str) -> None:
    record = EVERY_QUESTION[task]
    examples = released.examples(task, [record])
    expected = released.tasks[task].answer([record], examples, released.infer(examples))[0]
    answer = ask("POST", f"/v1/predict/{task}", json={"inputs": record})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == json.loads(json.dumps(expected))
    assert len(ask("POST", f"/v1/predict/{task}", json={"inputs": [record, record]}).json()) == 2


def test_all_tasks_answer_a_text(ask: Ask) -> None:
    one, pair = ask("POST", "/v1/predict", json={"inputs": ["It is late.", {"text": "a", "text_pair": "b"}]}).json()
    assert {"topics", "entities", "codes"} <= set(one) < set(pair)
    assert set(ask("POST", "/v1/predict", json={"inputs": "It is late."}).json()) == set(one)


def test_what_is_served_is_told(ask: Ask) -> None:
    tasks = ask("GET", "/v1/tasks").json()
    assert set(tasks) >= set(EVERY_TASK)
    assert tasks["topics"]["labels"] == ["positive", "negative"]
    assert [tasks[name]["text_alone"] for name in ("topics", "questions", "relations")] == [True, False, False]
    assert ask("GET", "/health").json() == {"status": "SERVING"}
    page = ask("GET", "/")
    assert "topics (text-classification)" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for file in ("try.js", "try.css", "page.css", "icon.svg"):
        assert ask("GET", f"/static/{file}").status_code == 200


def test_openapi_has_every_path_with_examples(ask: Ask) -> None:
    document = ask("GET", "/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/predict/{task}", "/v1/predict", "/v1/tasks", "/health", "/metrics", "/admin/reload",
    }  # fmt: skip
    predict = document["paths"]["/v1/predict/{task}"]["post"]
    assert len(predict["requestBody"]["content"]["application/json"]["examples"]) > 3
    assert {"200", "401", "413", "422", "429", "503", "504"} <= set(predict["responses"])
    (scheme,) = document["components"]["securitySchemes"].values()
    assert scheme == {"type": "http", "scheme": "bearer"}


REFUSED: list[tuple[str, Any, int, str]] = [
    ("not JSON", b"{", 400, "JSON"),
    ("not UTF-8", b'{"inputs": "\xff"}', 400, "JSON"),
    ("NaN", b'{"inputs": {"text": NaN}}', 400, "JSON"),
    ("Infinity", b'{"inputs": {"text": -Infinity}}', 400, "JSON"),
    ("beyond floats", b'{"inputs": {"text": "a", "score": 1e999}}', 422, "finite"),
    ("deep", b'{"inputs": ' + b"[" * 9000 + b"]" * 9000 + b"}", 400, "JSON"),
    ("rather deep", b'{"inputs": {"text": "a", "b": ' + b"[" * 50 + b"]" * 50 + b"}}", 422, "deep"),
    ("half a character", b'{"inputs": "a\\ud83d"}', 422, "whole characters"),
    ("a number of many digits", b'{"inputs": {"text": 1' + b"0" * 6000 + b"}}", 400, "JSON"),
    ("a list", b"[]", 422, "inputs"),
    ("another field", b'{"inputs": "a", "parameters": {}}', 422, "nothing else"),
    ("nothing", b'{"inputs": []}', 422, "1 to 8"),
    ("too many", b'{"inputs": ["a","a","a","a","a","a","a","a","a"]}', 422, "1 to 8"),
    ("a number", b'{"inputs": 7}', 422, "input 0"),
    ("no text", b'{"inputs": ["fine", "  "]}', 422, "Input 1: "),
    ("too large", b'{"inputs": "' + b"a" * 30_000 + b'"}', 413, "20000 bytes"),
]


@pytest.mark.parametrize(("body", "status", "said"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_cannot_be_read_is_refused(ask: Ask, body: bytes, status: int, said: str) -> None:
    for path in ("/v1/predict/topics", "/v1/predict"):
        answer = ask("POST", path, content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, list(answer.json())) == (status, ["error"])
        assert said in answer.json()["error"]


def test_a_body_of_unknown_length_is_capped_as_well(service: Service) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"a" * 1000

    async def run() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(make_app(service)), base_url=BASE) as client:
            headers = {"content-type": "application/json"}
            return await client.post("/v1/predict", content=parts(), headers=headers)

    assert asyncio.run(run()).status_code == 413


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_form_of_another_site_is_no_request(ask: Ask, kind: str) -> None:
    answer = ask("POST", "/v1/predict", content=b'{"inputs": "a"}', headers={"content-type": kind})
    assert answer.status_code == 415


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[::1", ""])
def test_another_name_for_this_machine_is_refused(ask: Ask, host: str) -> None:
    assert ask("GET", "/v1/tasks", headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/predict/nothing", 404), ("/v1/predict/..%2f..%2fetc", 404), ("/v1/predict/%00", 404), ("/nothing", 404),
        ("/static/../app.py", 404), ("/static/%2e%2e/app.py", 404), ("/static/__init__.py", 404),
        ("/static/vendor/../page.css", 404), ("/admin/reload", 403),
    ],
)  # fmt: skip
def test_tricks_with_paths_find_nothing(ask: Ask, path: str, status: int) -> None:
    if path.startswith("/static"):
        found = ask("GET", path).status_code
        assert found == (200 if path.endswith("page.css") and found == 200 else status)
    else:
        assert ask("POST", path, json={"inputs": "a"}).status_code == status


def test_a_slow_body_is_given_up(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "BODY_SECONDS", 0.05)
    sent: list[dict[str, Any]] = []

    async def never() -> dict[str, Any]:
        await asyncio.sleep(3600)
        return {}

    async def run() -> None:
        scope = {
            "type": "http", "method": "POST", "path": "/v1/predict", "raw_path": b"/v1/predict", "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")], "app": None,
            "http_version": "1.1", "scheme": "http", "server": ("localhost", 80), "client": ("127.0.0.1", 1),
        }  # fmt: skip

        async def send(message: Any) -> None:
            sent.append(message)

        await make_app(service)(scope, never, send)

    asyncio.run(run())
    assert sent[0]["status"] == 408


def test_tokens_have_roles(ask_guarded: Ask) -> None:
    body = {"json": {"inputs": "a"}}
    asked = {"predict": ("POST", "/v1/predict/topics", body), "tasks": ("GET", "/v1/tasks", {})}
    asked |= {"metrics": ("GET", "/metrics", {}), "health": ("GET", "/health", {})}
    expected = {
        None: (401, 401, 401, 200),
        "wrong": (401, 401, 401, 200),
        PREDICT[:-1]: (401, 401, 401, 200),
        PREDICT: (200, 200, 403, 200),
        METRICS: (403, 403, 200, 200),
        ADMIN: (200, 200, 200, 200),
    }
    for token, codes in expected.items():
        found = tuple(ask_guarded(method, path, token, **more).status_code for method, path, more in asked.values())
        assert found == codes
    assert ask_guarded("GET", "/v1/tasks", None).headers["www-authenticate"] == "Bearer"
    assert ask_guarded("POST", "/admin/reload", PREDICT).status_code == 403
    page = ask_guarded("GET", "/", None).text
    assert "topics" not in page
    assert 'id="token"' in page


def test_tokens_have_rates(ask_guarded: Ask) -> None:
    codes = [
        ask_guarded("POST", "/v1/predict/topics", SLOW, json={"inputs": texts}).status_code
        for texts in (["a", "a"], "a", "a")
    ]
    assert codes == [200, 200, 429]
    answer = ask_guarded("POST", "/v1/predict/topics", SLOW, json={"inputs": "a"})
    assert 1 <= int(answer.headers["retry-after"]) <= 20
    assert ask_guarded("POST", "/v1/predict/topics", PREDICT, json={"inputs": ["a"] * 4}).status_code == 200


class Held:
    """A model that computes when it is let."""

    def __init__(self, model: ReleasedModel) -> None:
        self.go, self.entered = threading.Event(), threading.Event()
        self._model = model

    def make(self) -> ReleasedModel:
        def encode(*args: Any) -> Any:
            self.entered.set()
            assert self.go.wait(30)
            return self._model.encode(*args)

        return replace(self._model, encode=encode)


def held(settings: Settings, released: ReleasedModel) -> tuple[Service, Held]:
    gate = Held(released)
    service = Service(settings, {"topics": Served("every", gate.make(), "topics")})
    service.start()
    return service, gate


async def post(app: ASGIApp, text: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as client:
        return await client.post("/v1/predict/topics", json={"inputs": text}, headers=headers)


def test_a_full_queue_says_when_to_come_again(settings: Settings, released: ReleasedModel) -> None:
    service, gate = held(replace(settings, queue=2), released)
    app = make_app(service)

    async def run() -> None:
        first = asyncio.create_task(post(app, "one"))
        await asyncio.to_thread(gate.entered.wait, 10)
        waiting = [asyncio.create_task(post(app, text)) for text in ("two", "three")]
        while service._batcher.waiting < 2:
            await asyncio.sleep(0.01)
        late = await post(app, "four")
        assert late.status_code == 503
        assert int(late.headers["retry-after"]) >= 1
        gate.go.set()
        assert [(await one).status_code for one in (first, *waiting)] == [200, 200, 200]

    asyncio.run(run())
    service.close()


def test_nobody_waits_beyond_the_deadline(settings: Settings, released: ReleasedModel) -> None:
    service, gate = held(replace(settings, deadline=20.0), released)
    app = make_app(service)

    async def run() -> None:
        late = await post(app, "one", prefer="respond-async, wait=0.2")
        assert late.status_code == 504
        gate.go.set()
        assert (await post(app, "two", prefer="wait=99999")).status_code == 200

    asyncio.run(run())
    service.close()


def test_a_reload_drops_no_request(settings: Settings, released: ReleasedModel, tmp_path: Path) -> None:
    service, gate = held(settings, released)
    app = make_app(service, service.reload)

    async def run() -> None:
        before = asyncio.create_task(post(app, "one"))
        await asyncio.to_thread(gate.entered.wait, 10)
        assert await service.reload() is None
        assert "entities" in service.tasks
        after = asyncio.create_task(post(app, "two"))
        gate.go.set()
        assert [(await one).status_code for one in (before, after)] == [200, 200]
        kept = service.tasks
        service.settings = replace(settings, bundles=(("gone", tmp_path),))
        assert "Expected" in str(await service.reload())
        assert service.tasks is kept
        assert (await post(app, "three")).status_code == 200

    asyncio.run(run())
    service.close()
    told = service.metrics.exposition().decode()
    assert 'collegium_serving_reloads_total{outcome="done"} 1.0' in told
    assert 'collegium_serving_reloads_total{outcome="failed"} 1.0' in told


def test_an_admin_reloads(ask_guarded: Ask, guarded: Service) -> None:
    before = guarded.tasks
    assert ask_guarded("POST", "/admin/reload", ADMIN).json() == {"reloaded": True}
    assert guarded.tasks is not before


def test_a_model_and_its_log_see_no_name(
    settings: Settings, released: ReleasedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[str]()

    def encode(ids: Any, *more: Any) -> Any:
        read.extend(map(released.tokenizer.decode, ids.tolist()))
        return released.encode(ids, *more)

    monkeypatch.setattr(masking, "open_finder", lambda how: lambda texts: [[Found("name", 4, 13)] for _ in texts])
    (file := tmp_path / "mask.toml").write_text(f'model = "en"\nsha256 = "{"0" * 64}"\n')
    tasks = {"topics": Served("every", replace(released, encode=encode), "topics")}
    service = Service(replace(settings, mask=file), tasks)
    service.start()
    answer = asyncio.run(post(make_app(service), SECRET))
    service.close()
    assert answer.status_code == 200
    assert [re.fullmatch(r"\[CLS\] mrs (?!xylophone)\w+ has gout \[SEP\].*", text) is None for text in read] == [False]


def test_nothing_of_a_text_is_told(
    settings: Settings, released: ReleasedModel, caplog: pytest.LogCaptureFixture
) -> None:
    def encode(*_: Any) -> Any:
        raise RuntimeError(SECRET)

    service = Service(settings, {"topics": Served("every", replace(released, encode=encode), "topics")})
    service.start()
    app = make_app(service)
    with caplog.at_level(logging.DEBUG):
        failed = asyncio.run(post(app, SECRET))
        unread = asyncio.run(post(app, SECRET, **{"content-type": "text/plain"}))
    wrong = [{"inputs": {"tokens": SECRET}}, {"inputs": [{"text": [SECRET]}]}, {"inputs": SECRET, SECRET: 1}]

    async def asked(body: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as client:
            return await client.post("/v1/predict/topics", json=body)

    answers = [failed, unread, *(asyncio.run(asked(body)) for body in wrong)]
    service.close()
    assert failed.status_code == 500
    assert failed.json() == {"error": "The server failed."}
    assert all("Xylophone" not in answer.text for answer in answers)
    assert "Xylophone" not in caplog.text
    assert "RuntimeError" in caplog.text
    assert "Xylophone" not in service.metrics.exposition().decode()
    assert 'collegium_serving_answers_total{status="500",task="topics"} 1.0' in service.metrics.exposition().decode()


def test_bundles_name_their_tasks(everything: Path) -> None:
    from client.serving.models import load

    tasks = load(Settings((("one", everything), ("two", everything)), precision="float32"))
    assert "one.topics" in tasks
    assert tasks["one.topics"].model.encode.backbone is tasks["two.topics"].model.encode.backbone  # type: ignore[attr-defined]
    assert named([f"a={everything}", str(everything)]) == (("a", everything), ("everything", everything))
    for words in ([f"a/b={everything}"], [str(everything)] * 2, ["a=nowhere"]):
        with pytest.raises(ConfigError):
            named(words)


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(int8=True)], ids=["merged", "int8"])
def test_what_was_optimized_is_served(
    settings: Settings,
    everything: Path,
    released: ReleasedModel,
    tmp_path: Path,
    asking: Callable[[ASGIApp, str], httpx.Client],
    wanted: Wanted,
) -> None:
    record, rows = EVERY_QUESTION["topics"], tmp_path / "topics.jsonl"
    rows.write_text('{"text": "The parcel came.", "label": "positive"}\n')
    optimize(everything, tmp_path / "small", wanted, {"topics": rows})
    own = replace(settings, bundles=(("small", tmp_path / "small"),))
    service = Service(own, load(own))
    service.start()
    try:
        answer = asking(make_app(service), BASE).post("/v1/predict/topics", json={"inputs": record}).json()
    finally:
        service.close()
    examples = released.examples("topics", [record])
    expected = released.tasks["topics"].answer([record], examples, released.infer(examples))[0]
    assert answer["label"] == expected["label"]
    assert answer["score"] == pytest.approx(expected["score"], abs=0.05 if wanted.int8 else 1e-4)
