"""Fixtures for all rooms: a tiny random BERT and small federations over it.

Large libraries are imported where they are used: the process that hands tests to workers reads this file, too.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import os
import secrets
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import httpx
import pytest

from shared.process.memory import loading
from shared.process.proxies import PROXIES, SPARED

if TYPE_CHECKING:
    from starlette.types import ASGIApp
    from transformers import BertConfig, PreTrainedTokenizerFast

    from shared.federation import Federation
    from shared.inference.model import ReleasedModel

for name in (*PROXIES, *SPARED):  # tests speak to this machine alone; those about proxies set their own
    os.environ.pop(name, None)
# Tiny models, in several workers and the processes that they start: more threads only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
# Ray gives way to all other processes (niceness 15): beside other workers its own would wait for minutes.
os.environ |= {"RAY_worker_niceness": "0"}
# Tests start hundreds of processes: each would compile our modules anew, and each worker all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Thousands of tests and all modules stay until the end: nobody need look through them for garbage."""
    with loading():
        return (yield)


@pytest.hookimpl(trylast=True)  # of what is selected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A worker takes a whole file: those that may take longest come first, so that in the end no worker waits.

    By the longest time that one of its tests asks for, and a second for each of them.
    """
    tests = Counter(item.path for item in items)
    longest = dict.fromkeys(tests, 0)
    for item in items:
        longest[item.path] = max([longest[item.path], *(mark.args[0] for mark in item.iter_markers("timeout"))])
    items.sort(key=lambda item: -longest[item.path] - tests[item.path])


@pytest.fixture(scope="session", autouse=True)
def auto_is_float32() -> Iterator[None]:
    """`precision = "auto"` is float32 whatever the processor, so that tolerances hold on all; bfloat16 is asked for."""
    from client.train import precision

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "_native_bfloat16", lambda device: False)
        yield


@pytest.fixture(scope="session", autouse=True)
def tokenizers_are_opened_once() -> Iterator[None]:
    """To open the same files again takes longer than all else that makes a tiny model."""
    from shared.model import backbone

    opened: dict[tuple[bytes, ...], PreTrainedTokenizerFast] = {}
    open_tokenizer = backbone.open_tokenizer

    def open_once(folder: Path) -> PreTrainedTokenizerFast:
        files = tuple(path.read_bytes() if (path := folder / name).is_file() else b"" for name in backbone.TOKENIZER)
        if files not in opened:
            opened[files] = open_tokenizer(folder)
        return opened[files]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "open_tokenizer", open_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def weights_are_read_once() -> Iterator[None]:
    """As tokenizers: a file that has not changed is hashed once, and each model beyond the first is a copy of it."""
    from transformers import BertModel

    digests, models = dict[tuple[object, ...], "hashlib._Hash"](), dict[tuple[object, ...], BertModel]()
    digest, read = hashlib.file_digest, BertModel.from_pretrained

    def state(found: os.stat_result) -> tuple[object, ...]:
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def digest_once(file: BufferedReader, name: str) -> hashlib._Hash:
        if (key := (name, *state(os.fstat(file.fileno())))) not in digests:
            digests[key] = digest(file, name)
        return digests[key]

    def read_once(folder: Path, *, config: BertConfig | None = None, **options: Any) -> BertModel:
        if config is None:
            return read(folder, **options)
        files = tuple(state(path.stat()) for path in sorted(Path(folder).glob("*.safetensors")))
        if (key := (files, config.to_json_string(), *map(str, options.items()))) not in models:
            models[key] = read(folder, config=config, **options)
        return deepcopy(models[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashlib, "file_digest", digest_once)
        patch.setattr(BertModel, "from_pretrained", read_once)
        yield


class InProcess(httpx.BaseTransport):
    """Asks an ASGI application without a server around it."""

    def __init__(self, app: ASGIApp) -> None:
        self._inner = httpx.ASGITransport(app, raise_app_exceptions=True)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def ask() -> httpx.Response:
            answer = await self._inner.handle_async_request(request)
            return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())

        return asyncio.run(ask())


@pytest.fixture(scope="session")
def asking() -> Callable[[ASGIApp, str], httpx.Client]:
    """A client of an application, which keeps cookies and follows nothing."""
    return lambda app, base: httpx.Client(transport=InProcess(app), base_url=base, follow_redirects=False)


@pytest.fixture(scope="session")
def in_a_fork() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Calls a function in a process of its own, which has loaded what this one has: its exit code, what it printed."""

    def printing(
        files: tuple[IO[str], IO[str]], function: Callable[..., object], arguments: tuple[object, ...]
    ) -> None:
        warnings.resetwarnings()  # pytest's are not what users have
        warnings.simplefilter("ignore", DeprecationWarning)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        for number, file in enumerate(files, start=1):
            os.dup2(file.fileno(), number)
        function(*arguments)

    def call(function: Callable[..., object], *arguments: object) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            fork = multiprocessing.get_context("fork")
            process = fork.Process(target=printing, args=((out, err), function, arguments))
            process.start()
            process.join(60)
            process.kill()
            process.join()
            for file in (out, err):
                file.seek(0)
            assert process.exitcode is not None
            return subprocess.CompletedProcess([], process.exitcode, out.read(), err.read())

    return call


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The URL of an empty database beside the one that COLLEGIUM_POSTGRESQL names."""
    if (given := os.environ.get("COLLEGIUM_POSTGRESQL")) is None:
        pytest.skip("no PostgreSQL: COLLEGIUM_POSTGRESQL names no database, as scripts/with-postgresql does")
    import sqlalchemy as sa

    url, name = sa.make_url(given), f"test_{secrets.token_hex(6)}"
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT of 2 layers, 32 wide, and the bundled vocabulary."""
    from simulations.attacks.stage import write_tiny_bert

    return write_tiny_bert(tmp_path_factory.mktemp("tiny-bert"))


@pytest.fixture(scope="session")
def tiny_federation(tiny_bert: Path) -> Callable[..., Federation]:
    """Makes a small float32 federation over the tiny BERT; keyword tables override its defaults."""
    from simulations.attacks.stage import tiny_federation

    return partial(tiny_federation, tiny_bert)


@pytest.fixture(scope="session")
def everything(tiny_federation: Callable[..., Federation], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with every type of task, whose adapter is no longer what it began as."""
    import numpy as np

    from shared.adapter import get_state
    from shared.bundle import write_bundle
    from shared.model.multitask import build_model
    from simulations.attacks.stage import EVERY_TASK

    federation = tiny_federation(tasks=EVERY_TASK)
    rng, state = np.random.default_rng(0), get_state(build_model(federation))
    for name in state:
        if "lora_B" in name:
            state[name] = rng.normal(0, 0.3, state[name].shape).astype(np.float32)
    folder = tmp_path_factory.mktemp("release") / "everything"
    return write_bundle(folder, federation, state, {}, metrics={"settings": {}}, readme="untrained")


@pytest.fixture(scope="session")
def released(everything: Path) -> ReleasedModel:
    """The model in it."""
    from shared.inference.opening import open_model

    return open_model(everything)


@pytest.fixture(scope="session")
def write_records() -> Callable[[Path, str, slice], Path]:
    """Writes some of the tiny records of a task to a JSON Lines file."""
    from simulations.attacks.stage import TINY_RECORDS

    def write(path: Path, task: str, part: slice = slice(None)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in TINY_RECORDS[task][part]), encoding="utf-8")
        return path

    return write
