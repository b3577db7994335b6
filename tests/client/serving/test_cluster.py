"""The door in Ray Serve: replicas come when requests queue, and all give the same answers."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from client.serving.cluster import Options, build
from shared.inference.model import ReleasedModel

ray = pytest.importorskip("ray", reason="pip install -e '.[ray]'")
serve = pytest.importorskip("ray.serve", reason="pip install -e '.[ray]'")
NICENESS = "RAY_worker_niceness"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.filterwarnings("default")]
TOKEN = "t" * 40
URL = "http://127.0.0.1:18766/v1/predict/topics"
TEXTS = ["It is late. " * 10] * 64


@pytest.fixture
def options(everything: Path, tmp_path: Path) -> Iterator[Options]:
    """A cluster of this machine."""
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[app]\ntoken = "{TOKEN}"\n')
    tokens.chmod(0o600)
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    serve.start(http_options={"host": "127.0.0.1", "port": 18766})
    yield Options(bundles=f"every={everything}", tokens=tokens, least=1, most=2, ongoing=2, precision="float32")
    serve.shutdown()
    ray.shutdown()


def running() -> int:
    found: Any = serve.status().applications["default"].deployments["collegium"].replica_states
    return int(found.get("RUNNING", 0))


def niceness_of_workers() -> set[int]:
    """Of all that Ray has started, replicas among them, whatever each is called at the moment."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "cmdline").read_bytes().startswith(b"ray::"):
                found.add(os.getpriority(os.PRIO_PROCESS, int(entry.name)))
    return found


def test_another_replica_comes_when_requests_queue(options: Options, released: ReleasedModel) -> None:
    assert os.environ[NICENESS] == "0", "as docs/serving.md has it"
    serve.run(build(options))
    assert running() == 1
    assert niceness_of_workers() == {0}
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert httpx.post(URL, json={"inputs": "It is late."}).status_code == 401
    examples = released.examples("topics", [{"text": TEXTS[0]}])
    expected = released.tasks["topics"].answer([{"text": TEXTS[0]}], examples, released.infer(examples))[0]
    stop, wrong = threading.Event(), list[object]()

    def ask() -> None:
        with httpx.Client(headers=headers, timeout=60) as client:
            while not stop.is_set():
                answer = client.post(URL, json={"inputs": TEXTS})
                if answer.status_code != 200 or answer.json()[0]["label"] != expected["label"]:
                    wrong.append((answer.status_code, answer.text[:200]))

    asking = [threading.Thread(target=ask) for _ in range(12)]
    for thread in asking:
        thread.start()
    try:
        ends = time.monotonic() + 120
        while running() < 2 and time.monotonic() < ends:
            time.sleep(1)
        time.sleep(3)  # both answer
    finally:
        stop.set()
        for thread in asking:
            thread.join()
    assert running() == 2
    assert wrong == []
