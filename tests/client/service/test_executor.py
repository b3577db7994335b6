"""The resident executor behind a SuperNode's own Runtime API over HTTP, side by side with stock `flwr-clientapp`."""

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.supercore.inflatable.inflatable_object import no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory
from flwr.supernode.start_client_internal import _pull_and_store_message, _push_messages

from client.keys import generate_node_key
from client.service import executor
from shared.errors import ConnectionFailedError
from shared.federation import Federation, federation_toml
from shared.flower.bundle import build_fab_from_files
from shared.flower.constants import TaskType
from shared.flower.messages import (
    Fab,
    ObjectTree,
    Run,
    TaskIdentity,
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from shared.process import parent
from shared.process.flower import flower_command, flower_environment
from simulations.demo import free_ports

ROOT = Path(__file__).parents[2]
SECRET = b"not-very-secret-but-long-enough-for-a-test\n"
RUN, NODE = 77, 42

PYPROJECT = b"""
[project]
name = "probe"
version = "1.0.0"
description = "An app for tests"
license = { text = "Apache-2.0" }
dependencies = []
[tool.flwr.app]
publisher = "tests"
[tool.flwr.app.components]
serverapp = "probe_server:app"
clientapp = "probe_client:app"
[tool.flwr.app.config]
factor = 3.0
"""
SERVER_APP = b"from flwr.serverapp import ServerApp\n\napp = ServerApp()\n"
CLIENT_APP = b"""
import time
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def count(context):
    calls = context.state.get("calls", MetricRecord({"n": 0}))
    calls["n"] = int(calls["n"]) + 1
    context.state["calls"] = calls
    return int(calls["n"])


@app.train()
def train(message, context):
    calls = count(context)
    wish = message.content["config"].get("raise", "")
    if wish == "plain":
        raise ValueError("the record of patient Jane Example")
    if wish == "collegium":
        from shared.errors import RefusalError
        raise RefusalError("Not under this agreement.")
    if wish == "exit":
        raise SystemExit(3)
    if wish == "linger":
        print("lingering", flush=True)
        for _ in range(3000):
            time.sleep(0.01)
    if wish == "hang":
        print("lingering", flush=True)
        time.sleep(30)
    if wish == "nothing":
        return None
    factor = context.run_config["factor"]
    arrays = {name: Array(np.asarray(array.numpy() * factor)) for name, array in message.content["arrays"].items()}
    return Message(
        RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"calls": calls, "loss": 0.5})}),
        reply_to=message,
    )


@app.evaluate()
def evaluate(message, context):
    total = float(sum(np.abs(array.numpy()).sum() for array in message.content["arrays"].values()))
    return Message(RecordDict({"metrics": MetricRecord({"calls": count(context), "total": total})}), reply_to=message)


@app.query()
def query(message, context):
    asked = message.content["config"]["asked"]
    info = ConfigRecord({"answer": asked.upper(), "node": context.node_id, "site": context.node_config["site"]})
    return Message(RecordDict({"info": info}), reply_to=message)
"""
# What the resident process runs: the app that is installed at the site, with the real loop and the real signals.
RESIDENT = """
import logging, sys
from pathlib import Path
from client.service import executor
from shared.process.supervisor import run_until_signal
from simulations.demo import free_ports

logging.basicConfig(level=logging.INFO)
logging.getLogger("httpx").setLevel(logging.WARNING)
executor.HEARTBEAT_SECONDS = 0.2
sys.path.insert(0, {site!r})
from probe_client import app

def work(stop):
    import threading
    threading.Thread(target=executor._exit_soon_after, args=(stop,), daemon=True).start()
    print("up", flush=True)
    executor.serve(client_app=app, runtime_address={address!r}, secret=Path({secret!r}).read_bytes(), stop=stop,
                   on_task=lambda task: print(task, flush=True),
                   on_error=lambda reason, run: print("leaves", run, reason, flush=True) or reason)

run_until_signal(work)
"""


def bundle(client_app: bytes = CLIENT_APP) -> bytes:
    files: dict[str, bytes | Path] = {
        "pyproject.toml": PYPROJECT,
        "probe_server.py": SERVER_APP,
        "probe_client.py": client_app,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="GitWildMatchPattern", category=DeprecationWarning)
        return build_fab_from_files(files)[0]


class SuperNode:
    """A SuperNode's state, Runtime API and message loop, with this test in the place of the SuperLink."""

    def __init__(self, fab: bytes) -> None:
        self.fab = Fab(hashlib.sha256(fab).hexdigest(), fab, {})
        self.run = replace(
            Run.create_empty(RUN),
            fab_id="tests/probe",
            fab_version="1.0.0",
            fab_hash=self.fab.hash_str,
            primary_task_type=TaskType.SERVER_APP,
        )
        factory = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
        self.state, self.store, self.factory = factory.state(), factory.objectstore_factory.store(), factory
        self.state.set_node_id(NODE)
        (self.port,) = free_ports(1)
        self.address = f"127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        config = uvicorn.Config(create_app(self.factory, SECRET), port=self.port, log_level="error", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        wait_for(lambda: server.started)
        try:
            yield
        finally:
            server.should_exit = True
            thread.join()

    def put(self, kind: str, **content: Any) -> Message:
        """Let a message arrive from the SuperLink."""
        # The SuperLink stamps the sender in; in a process of one node it is this.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 5, RUN, 1
        message = Message(RecordDict(content), NODE, kind, group_id="3")
        message.metadata.__dict__["_message_id"] = message.object_id
        objects = get_all_nested_objects(message)
        tree = get_object_tree(message)
        contents = {name: item.deflate() for name, item in objects.items()}
        stored = _pull_and_store_message(
            state=self.state,
            object_store=self.store,
            node_config={"site": "hospital"},
            receive=lambda: (remove_content_from_message(message), tree),
            get_run=lambda _run: self.run,
            get_fab=lambda _hash, _run: self.fab,
            pull_object=lambda _run, name: contents[name],
            confirm_message_received=lambda _run, _name: None,
            trusted_entities=None,
        )
        assert stored == RUN
        return message

    def reply(self) -> Message:
        """Wait for the reply as the SuperNode does, and put it together as the SuperLink would."""
        sent: list[tuple[Message, ObjectTree]] = []
        contents: dict[str, bytes] = {}

        def send(message: Message, tree: ObjectTree, _seconds: float) -> tuple[set[str], str]:
            sent.append((message, tree))
            return {node.object_id for node in iterate_object_tree(tree)}, "session"

        def push(_run: int, _session: str, name: str, content: bytes) -> None:
            contents[name] = content

        _push_messages(state=self.state, object_store=self.store, send=send, push_object=push)
        ((_, tree),) = sent
        with no_object_id_recompute():
            message = inflate_object_from_contents(tree.object_id, contents, keep_object_contents=True)
        assert isinstance(message, Message)
        return message

    def ask(self, kind: str, **content: Any) -> tuple[Message, Message]:
        return self.put(kind, **content), self.reply()

    def last_status(self) -> tuple[str, str, str]:
        """Status, sub-status and details of the newest task, once it is over."""
        wait_for(lambda: all(task.status.status == "finished" for task in self.state.get_tasks()))
        status = max(self.state.get_tasks(), key=lambda task: task.pending_at).status
        return status.status, status.sub_status, status.details


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


class Process:
    """An executor in a process of its own, and what it wrote."""

    def __init__(self, log: Path, argv: list[str], environment: dict[str, str]) -> None:
        self.log = log
        with log.open("wb") as file:
            self.popen = subprocess.Popen(
                argv, env={**os.environ, **environment}, cwd=log.parent, stdout=file, stderr=subprocess.STDOUT
            )

    def wait_for(self, words: str, count: int = 1) -> None:
        wait_for(lambda: self.text.count(words) >= count or self.popen.poll() is not None)
        assert self.text.count(words) >= count, self.text

    @property
    def text(self) -> str:
        return self.log.read_text()

    def stop(self) -> float:
        """Seconds between SIGTERM and the end."""
        began = time.monotonic()
        self.popen.send_signal(signal.SIGTERM)
        self.popen.wait(20)
        return time.monotonic() - began


@contextlib.contextmanager
def stock(node: SuperNode, folder: Path) -> Iterator[Process]:
    (folder / "secret").write_bytes(SECRET)
    argv = [flower_command("flower-superexec"), "--insecure", "--runtime-api-address", node.address]
    argv += ["--superexec-auth-secret-file", str(folder / "secret")]
    yield from _running(Process(folder / "stock.log", argv, flower_environment(folder / "flower")))


@contextlib.contextmanager
def resident(node: SuperNode, folder: Path) -> Iterator[Process]:
    (folder / "secret").write_bytes(SECRET)
    site = folder / "installed"
    site.mkdir()
    (site / "probe_client.py").write_bytes(CLIENT_APP)
    code = RESIDENT.format(site=str(site), address=node.address, secret=str(folder / "secret"))
    process = Process(folder / "resident.log", [sys.executable, "-c", code], flower_environment(folder / "flower"))
    process.wait_for("up")
    yield from _running(process)


def _running(process: Process) -> Iterator[Process]:
    try:
        yield process
    finally:
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.wait()


def arrays(seed: int = 0) -> ArrayRecord:
    generator = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"a": (4, 8), "b": (300, 128), "empty": (0, 3), "scalar": ()}
    return ArrayRecord(
        {name: Array(np.asarray(generator.standard_normal(shape, dtype=np.float32))) for name, shape in shapes.items()}
    )


def config(**values: str) -> ConfigRecord:
    return ConfigRecord(dict(values))


def conversation(node: SuperNode) -> list[dict[str, Any]]:
    """The same messages for either executor, and all that the coordinator and the SuperNode see of the answers."""
    seen = []
    for kind, content in (
        ("train", {"arrays": arrays(), "config": config()}),
        ("train", {"arrays": arrays(1), "config": config()}),
        ("evaluate", {"arrays": arrays(2)}),
        ("query", {"config": config(asked="who?")}),
        ("train", {"arrays": arrays(), "config": config(**{"raise": "plain"})}),
        ("train", {"arrays": arrays(3), "config": config()}),
    ):
        message, reply = node.ask(kind, **content)
        assert reply.metadata.reply_to_message_id == message.metadata.message_id
        assert 0 < reply.metadata.ttl <= message.metadata.ttl
        metadata = reply.metadata
        content_seen: object = None
        if reply.has_content():
            content_seen = {
                key: {name: value.numpy().tolist() for name, value in record.items()}
                if isinstance(record, ArrayRecord)
                else dict(record)
                for key, record in reply.content.items()
            }
        node.last_status()
        state = node.state.get_run_series_context(node.run.series_id)
        assert state is not None
        seen.append(
            {
                "type": metadata.message_type,
                "run": metadata.run_id,
                "nodes": (metadata.src_node_id, metadata.dst_node_id),
                "group": metadata.group_id,
                "content": content_seen,
                "error": reply.error.code if reply.has_error() else None,
                "reason": reply.error.reason if reply.has_error() else None,
                "status": node.last_status(),
                "state": {key: dict(record) for key, record in state.state.metric_records.items()},
            }
        )
    return seen


@pytest.mark.slow
def test_the_resident_executor_answers_as_stock_flower_does(tmp_path: Path) -> None:
    answers = {}
    for name, start in (("stock", stock), ("resident", resident)):
        node = SuperNode(bundle())
        folder = tmp_path / name
        folder.mkdir()
        with node.serving(), start(node, folder):
            answers[name] = conversation(node)
    theirs, ours = answers["stock"], answers["resident"]
    # The one intended difference: an exception's text stays at the site.
    their_error, our_error = theirs[4], ours[4]
    assert their_error.pop("reason") == "<class 'ValueError'>:<'the record of patient Jane Example'>"
    assert their_error.pop("status")[:2] == ("finished", "failed")
    assert our_error.pop("reason") == "ValueError"
    assert our_error.pop("status") == ("finished", "failed", "ValueError")
    assert ours == theirs
    # The comparison compares something: contents, states that go on, an error that costs nothing.
    assert ours[0]["content"]["arrays"]["a"] == (arrays()["a"].numpy() * 3.0).tolist()
    assert [answer["state"]["calls"]["n"] for answer in ours] == [1, 2, 3, 3, 4, 5]
    assert ours[3]["content"]["info"] == {"answer": "WHO?", "node": NODE, "site": "hospital"}
    assert our_error["error"] is not None
    assert ours[5]["status"] == ("finished", "completed", "")


def test_the_pushed_bundle_is_never_run_nor_unpacked(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    hostile = f"open({str(marker)!r}, 'w').write('run')\n".encode() + CLIENT_APP
    node = SuperNode(bundle(hostile))
    with node.serving(), resident(node, tmp_path):
        _, reply = node.ask("train", arrays=arrays(), config=config())
    assert reply.has_content()
    assert not marker.exists()
    assert not (tmp_path / "flower").exists()


def test_what_an_error_tells_the_coordinator(tmp_path: Path) -> None:
    node = SuperNode(bundle())
    with node.serving(), resident(node, tmp_path) as process:
        reasons = {
            wish: node.ask("train", arrays=arrays(), config=config(**{"raise": wish}))[1].error.reason
            for wish in ("plain", "collegium", "nothing", "exit")
        }
        _, reply = node.ask("train", arrays=arrays(), config=config())
        process.wait_for("error=''")
    assert reasons == {
        "plain": "ValueError",
        "collegium": "RefusalError: Not under this agreement.",
        "nothing": "TypeError",
        "exit": "SystemExit",
    }
    assert reply.has_content()  # not even SystemExit ended the process
    assert re.findall(r"leaves \d+ (.*)", process.text) == list(reasons.values()), "each was told before it left"
    assert "the record of patient Jane Example" in process.text  # the log at the site has it all


def test_sigterm_in_training_is_prompt_and_answers_with_an_error(tmp_path: Path) -> None:
    node = SuperNode(bundle())
    with node.serving(), resident(node, tmp_path) as process:
        node.put("train", arrays=arrays(), config=config(**{"raise": "linger"}))
        process.wait_for("lingering")
        assert process.stop() < 2.0
        assert node.reply().error.reason == executor.STOPPED
        assert node.last_status() == ("finished", "failed", executor.STOPPED)
    assert process.popen.returncode == 0


def test_sigterm_ends_even_what_cannot_be_interrupted(tmp_path: Path) -> None:
    node = SuperNode(bundle())
    with node.serving(), resident(node, tmp_path) as process:
        node.put("train", arrays=arrays(), config=config(**{"raise": "hang"}))
        process.wait_for("lingering")
        assert process.stop() < 2.5


def test_a_task_that_the_supernode_gave_up_is_abandoned(tmp_path: Path) -> None:
    node = SuperNode(bundle())
    with node.serving(), resident(node, tmp_path) as process:
        node.put("train", arrays=arrays(), config=config(**{"raise": "linger"}))
        process.wait_for("lingering")
        (task,) = node.state.get_tasks()
        assert node.state.finish_task(task.task_id, "failed", "given up")
        process.wait_for(executor.WITHDRAWN)
        node.state.delete_messages()
        _, reply = node.ask("train", arrays=arrays(), config=config())
    assert reply.has_content()


def test_a_lost_supernode_is_waited_for_and_logged_once(tmp_path: Path) -> None:
    node = SuperNode(bundle())
    with resident(node, tmp_path) as process:
        process.wait_for("does not answer")
        for asked in ("again", "and again"):
            time.sleep(0.5)
            with node.serving():
                _, reply = node.ask("query", config=config(asked=asked))
                assert reply.content["info"]["answer"] == asked.upper()
                process.wait_for("error=''", count=1 if asked == "again" else 2)
        wait_for(lambda: process.text.count("does not answer") == 3)
    assert process.text.count("answers again") == 2


def test_a_reply_is_good_by_the_clock_of_its_message() -> None:
    """Of a site whose clock is an hour ahead it would be out of date when it is made, by a day behind good too long."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    message = Message(RecordDict(), 1, "query", ttl=1800.0)
    message.metadata.created_at -= 3600.0
    reply = Message(RecordDict(), reply_to=message)
    assert reply.metadata.ttl < 0
    executor.keep_its_time(reply, message, 20.0)
    assert (reply.metadata.created_at, reply.metadata.ttl) == (message.metadata.created_at + 20.0, 1780.0)
    executor.keep_its_time(reply, message, 1800.0)
    assert reply.metadata.ttl == 1.0, "Flower takes none that is not good at all"


def test_a_wrong_secret_is_a_clear_error() -> None:
    node = SuperNode(bundle())
    with node.serving(), pytest.raises(ConnectionFailedError, match=r"accept the SuperExec secret.*401"):
        executor.serve(
            client_app=None,  # type: ignore[arg-type]
            runtime_address=node.address,
            secret=b"another secret",
            stop=threading.Event(),
        )


@pytest.mark.slow
def test_a_site_with_broken_records_ends_without_a_word_of_them(
    tmp_path: Path, tiny_federation: Callable[..., Federation]
) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "federation.toml").write_text(federation_toml(tiny_federation()))
    (tmp_path / "notes.jsonl").write_text('{"text": "He has gout.", "label": "Mrs Quixley"}\n')
    file = tmp_path / "institution.toml"
    file.write_text('name = "hospital"\n[data.clauses]\ntrain = "notes.jsonl"\n')
    generate_node_key(tmp_path / "node.key")
    argv = [sys.executable, "-m", "client.service.executor", "--institution", str(file)]
    argv += ["--runtime", "127.0.0.1:1", "--secret-file", str(tmp_path / "secret")]
    mine, its = os.pipe()
    with open(mine, "rb") as reading:
        environment = {**os.environ, parent.VARIABLE: str(its)}
        done = subprocess.run(
            argv, cwd=ROOT, env=environment, pass_fds=[its], capture_output=True, text=True, timeout=120, check=False
        )
        os.close(its)
        told = reading.read().decode()
    assert done.returncode == executor.USER_ERROR
    assert "1 of 1 rows" in done.stderr
    of_daemon = json.loads(told)["loggable"]
    assert "1 of 1 rows" in of_daemon, "what it says where nobody sits at a terminal"
    for said in (done.stderr, done.stdout, of_daemon):
        assert "Quixley" not in said
        assert "gout" not in said


def test_a_bad_institution_file_is_one_last_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    argv = [sys.executable, "-m", "client.service.executor", "--institution", str(tmp_path / "absent.toml")]
    argv += ["--runtime", "127.0.0.1:1", "--secret-file", str(tmp_path / "secret")]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == executor.USER_ERROR
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert "absent.toml" in last
