import asyncio
import contextlib
import inspect
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import islice
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import Message, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import fleet_http_connection
from flwr.supernode import main as node
from flwr.supernode.nodestate import NodeStateFactory
from starlette.types import Receive, Scope, Send

from client.service import supernode
from client.service.endings import Over
from client.service.once import OVER_HEADER
from client.service.requests import (
    CONFIRM_PATH,
    PUSH_PATH,
    Patience,
    WholeRequestSigner,
)
from client.service.supernode import (
    ACQUIRE_PATH,
    IDLE_POLL,
    IDLE_SLEEP,
    LINGER,
    LONGEST_RETRY,
    TASKS,
    Leaving,
    Pauses,
    give_up_tasks,
    holding,
    push_every_reply,
)
from shared.flower.constants import ErrorCode, SubStatus, TaskType
from shared.flower.crypto import generate_key_pairs
from shared.flower.http import ProtobufRequestContext
from shared.flower.messages import RunNotRunningException
from shared.flower.supernode import (
    InMemoryNodeState,
    start_client_internal,
)
from shared.process.waiting import EXECUTOR_HEADER, LEAVES_HEADER, Bell
from shared.process.waiting import HEADER as WAIT_HEADER

LOOP: Any = start_client_internal
CONNECTION: Any = fleet_http_connection
RunMain = Callable[..., "subprocess.CompletedProcess[str]"]


class Clock:
    def __init__(self) -> None:
        self.now, self.slept = 1000.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def patience(clock: Clock) -> Patience:
    return Patience(now=lambda: clock.now)


@pytest.fixture
def pauses(clock: Clock, patience: Patience) -> Pauses:
    return _pauses(0.25, clock, patience)


def _pauses(poll: float, clock: Clock, patience: Patience) -> Pauses:
    news = threading.Event()
    news.set()
    return Pauses(poll, patience, news, sleep=clock.sleep, now=lambda: clock.now)


def test_a_coordinator_that_holds_nothing_is_asked_once_a_second(pauses: Pauses, clock: Clock) -> None:
    pauses.sleep(IDLE_SLEEP)
    assert clock.slept == [IDLE_POLL]


def test_after_a_message_the_next_is_expected_for_a_minute(pauses: Pauses, clock: Clock) -> None:
    pauses.sleep(0.5)  # waiting for a reply: a message has come
    pauses.sleep(IDLE_SLEEP)
    assert clock.slept == [0.25]
    clock.now += LINGER
    pauses.sleep(IDLE_SLEEP)
    assert clock.slept[-1] == IDLE_POLL


def test_a_poll_above_one_second_is_never_shortened(clock: Clock, patience: Patience) -> None:
    _pauses(5.0, clock, patience).sleep(IDLE_SLEEP)
    assert clock.slept == [5.0]


def test_a_question_that_was_held_is_followed_by_the_next(pauses: Pauses, clock: Clock, patience: Patience) -> None:
    patience.held = True
    clock.now += 25.0
    pauses.sleep(IDLE_SLEEP)
    assert clock.slept == []
    pauses.sleep(IDLE_SLEEP)  # answered at once: a coordinator that is about to stop
    assert clock.slept == [IDLE_POLL]


def test_the_executors_reply_wakes_the_loop(clock: Clock, patience: Patience) -> None:
    news = threading.Event()
    pauses = Pauses(0.25, patience, news, sleep=clock.sleep, now=lambda: clock.now)
    threading.Timer(0.05, news.set).start()
    began = time.monotonic()
    pauses.sleep(0.5)
    assert time.monotonic() - began < 0.8
    assert not news.is_set()


def test_flowers_loop_is_as_this_module_takes_it_to_be() -> None:
    source = inspect.getsource(start_client_internal)
    assert set(re.findall(r"\btime\.\w+", source)) == {"time.sleep"}
    assert re.findall(r"time\.sleep\((.*)\)", source) == [str(IDLE_SLEEP), "0.5", "0.5"]
    assert f"if run_id is None:\n{' ' * 16}# If no message was received, wait for a while" in source


def test_flower_pushes_replies_as_this_module_takes_it_to() -> None:
    source = inspect.getsource(start_client_internal)
    (call,) = re.findall(r"\n +_push_messages\(\n((?:.+\n)+?) +\)", source)
    assert re.findall(r"(\w+)=", call) == ["state", "object_store", "send", "push_object"]


def _insert(state: InMemoryNodeState, name: str, reply_to: str = "") -> None:
    message = Message(RecordDict(), 1, "train")
    message.metadata.__dict__.update(_message_id=name, _reply_to_message_id=reply_to)
    state.store_message(message)


def test_no_reply_stays_behind_because_another_was_sent_in_its_place() -> None:
    """The run of `old` was over before it had come in full, but its task was there; then `new` came."""
    state, sent, news = InMemoryNodeState(ObjectStoreFactory().store()), list[str](), threading.Event()
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 5, 7, 1
    state.store_run(Run.create_empty(run_id=7))
    tasks = {name: state.create_task(TaskType.CLIENT_APP, run_id=7, fab_hash=None) for name in ("old", "new")}
    for name in tasks:
        _insert(state, name)
        assert state.claim_task(tasks[name] or 0)
        assert state.activate_task(tasks[name] or 0)
    state.get_messages_legacy(is_reply=False)  # the executor has both

    def answer(name: str) -> None:
        _insert(state, f"reply to {name}", name)
        news.set()

    def push(state: InMemoryNodeState) -> None:  # as Flower's
        while not (replies := state.get_messages_legacy(is_reply=True)):
            time.sleep(0.01)
        for reply in replies:
            sent.append(reply.metadata.message_id)
            state.delete_messages(message_ids=[reply.metadata.message_id, reply.metadata.reply_to_message_id])

    answer("old")
    loop = threading.Thread(target=push_every_reply, args=(push, news), kwargs={"state": state}, daemon=True)
    loop.start()
    loop.join(0.3)
    assert sent == ["reply to old"]
    assert loop.is_alive(), "it is not asked for another message yet"
    answer("new")
    loop.join(10)
    assert sent == ["reply to old", "reply to new"]
    assert not loop.is_alive()


def test_a_message_whose_task_has_ended_without_a_reply_is_not_waited_for() -> None:
    state = InMemoryNodeState(ObjectStoreFactory().store())
    state.store_run(Run.create_empty(run_id=7))
    task = state.create_task(TaskType.CLIENT_APP, run_id=7, fab_hash=None) or 0
    _insert(state, "m")
    assert state.finish_task(task, sub_status=SubStatus.FAILED, details="")
    loop = threading.Thread(
        target=push_every_reply, args=(lambda state: None, threading.Event()), kwargs={"state": state}, daemon=True
    )
    loop.start()
    loop.join(10)
    assert not loop.is_alive()


def test_flowers_loop_sends_every_reply(run_main: RunMain) -> None:
    def flower() -> None:
        print(vars(start_client_internal)["_push_messages"].func.__name__)
        sys.exit()

    assert run_main(flower).stdout.strip() == push_every_reply.__name__


def test_a_message_of_a_run_that_is_over_is_no_task(patience: Patience) -> None:
    """Flower lets the error of `confirm` pass by what takes a message back that has not come in full."""
    signer = WholeRequestSigner(*generate_key_pairs(), patience)
    found = {}
    for path in (CONFIRM_PATH, PUSH_PATH):
        request = httpx.Request("POST", f"https://server{path}", content=b"")
        context = ProtobufRequestContext(rpc_method="", message=None, request=request)
        found[path] = signer.intercept(context, lambda _: httpx.Response(403)).status_code
    assert found == {CONFIRM_PATH: 410, PUSH_PATH: 403}


@pytest.mark.parametrize(("error", "left"), [(RunNotRunningException(), 1), (httpx.HTTPError("410"), 0)])
def test_flower_takes_a_message_back_by_any_error_but_its_own(error: BaseException, left: int) -> None:
    store = ObjectStoreFactory().store()
    state = InMemoryNodeState(store)
    state.store_run(Run.create_empty(run_id=7))
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 5, 7, 1
    message = Message(RecordDict(), 1, "train")
    message.metadata.__dict__["_message_id"] = "m"

    def confirm(run: int, message: str) -> None:
        raise error

    unasked = dict.fromkeys(("get_run", "get_fab"), lambda *_: None)
    pulled = start_client_internal._pull_and_store_message(
        state=state,
        object_store=store,
        node_config={},
        receive=lambda: (message, ObjectTree(object_id=RecordDict().object_id)),
        pull_object=lambda *_: RecordDict().deflate(),
        confirm_message_received=confirm,
        trusted_entities=None,
        **unasked,  # type: ignore[arg-type]
    )
    assert pulled is None
    assert len(state.msg_store) == left
    assert len(state.get_tasks(statuses=["pending"])) == left


@pytest.mark.parametrize(("error", "ends"), [(None, True), (RunNotRunningException(), True), (OSError(), False)])
def test_after_the_last_reply_nothing_more_is_asked_for(
    error: Exception | None, ends: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the next round's request would be taken by a process that is about to end."""
    leaving = Leaving()

    def send() -> None:
        if error:
            raise error

    def push(send: Callable[[], None], state: str) -> None:
        assert state == "handed on"
        with contextlib.suppress(OSError, RunNotRunningException):  # as Flower's
            send()

    leaving.push(push, send=send, state="handed on")
    assert not capsys.readouterr().out
    leaving.over = over = Over("round 1")
    last = threading.Thread(target=leaving.push, args=(push,), kwargs={"send": send, "state": "handed on"}, daemon=True)
    last.start()
    last.join(0.5)
    assert last.is_alive() == ends
    assert capsys.readouterr().out == (f"{over.line()}\n" if ends else "")
    assert (leaving.over is None) != ends, "a reply that did not arrive is asked for again"


def test_the_executor_says_that_an_answer_is_the_last_one(patience: Patience) -> None:
    leaving, over = Leaving(), Over("Round 3 — über", failed=True)
    app = holding(_nothing, lambda: False, Bell(), threading.Event(), leaving=leaving)
    scope = {"path": "/v1/runtime/push-messages", "headers": [(OVER_HEADER.encode(), over.header().encode())]}

    async def talk() -> None:
        await app(scope, _nothing, _nothing)

    asyncio.run(talk())
    assert leaving.over == over
    asked = list[httpx.Request]()

    def call(context: ProtobufRequestContext) -> httpx.Response:
        asked.append(context.request)
        return httpx.Response(200)

    signer = WholeRequestSigner(*generate_key_pairs(), patience, leaves=lambda: leaving.over is not None)
    for path in (PUSH_PATH, CONFIRM_PATH):
        request = httpx.Request("POST", f"https://server{path}", content=b"")
        signer.intercept(ProtobufRequestContext(rpc_method="", message=None, request=request), call)
    assert [LEAVES_HEADER in request.headers for request in asked] == [True, False]


async def _nothing(*_: object) -> Any: ...


@pytest.fixture
def run_main(in_a_fork: RunMain) -> RunMain:
    """`main` with a function in the place of Flower's."""

    def main(flower: Callable[[], object], options: list[str]) -> None:
        sys.argv = ["", *options]
        vars(supernode)["flower_supernode"] = flower
        supernode.main()

    return lambda flower, *options: in_a_fork(main, flower, list(options))


def test_options_and_pauses_reach_flower(run_main: RunMain) -> None:
    def flower() -> None:
        began = time.monotonic()
        LOOP.time.sleep(3)
        LOOP.time._news.set()
        LOOP.time.sleep(0.5)
        LOOP.time.sleep(3)
        print(sys.argv[1:], 1.1 < time.monotonic() - began < 2)
        sys.exit()

    ended = run_main(flower, "--poll", "0.1", "--", "--superlink", "127.0.0.1:1")
    assert (ended.stdout.strip(), ended.returncode) == ("['--superlink', '127.0.0.1:1'] True", 0)


@pytest.mark.parametrize("error", [None, ValueError("bad answer")])
def test_when_flowers_loop_ends_by_an_error_the_process_ends_too(run_main: RunMain, error: Exception | None) -> None:
    def flower() -> None:
        threading.Thread(target=time.sleep, args=(60,)).start()
        if error:
            raise error

    began = time.monotonic()
    ended = run_main(flower)
    assert ended.returncode == 1
    assert time.monotonic() - began < 20
    assert "ended by an error" in ended.stderr
    assert ("bad answer" in ended.stderr) == bool(error)


def test_arrays_on_their_way_are_asked_for_soon(run_main: RunMain) -> None:
    def flower() -> None:
        asked = list[str]()

        def pull(name: str) -> bytes:
            asked.append(name)
            if len(asked) == 1:
                raise ObjectUnavailableError(name)
            return b"content"

        began = time.monotonic()
        print(LOOP.pull_objects(["a"], pull_object_fn=pull), time.monotonic() - began < 0.6)
        sys.exit()

    assert run_main(flower).stdout.strip() == "{'a': b'content'} True"


def test_who_was_cut_off_is_back_soon(run_main: RunMain) -> None:
    def flower() -> None:
        both = (CONNECTION.make_simple_http_retry_invoker(), HeartbeatSender(bool)._retry_invoker)
        print([max(islice(one.wait_gen_factory(), 50)) for one in both])
        sys.exit()

    assert run_main(flower).stdout.strip() == str([LONGEST_RETRY] * 2)


def test_the_executors_question_is_held_until_there_is_a_task() -> None:
    bell, news, tasks = Bell(), threading.Event(), list[str]()
    reached = list[str]()

    async def flower(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(f"{scope['path']} {(await receive()).get('body', b'').decode()}")

    app = holding(flower, lambda: bool(tasks), bell, news)

    async def told(path: str, body: bytes, wait: bytes = b"") -> None:
        await app(request(path, wait), once(body), _nowhere)

    async def play() -> float:
        asking = asyncio.create_task(told(ACQUIRE_PATH, b"task?", b"25"))
        await asyncio.sleep(0.05)
        assert reached == []
        tasks.append("one")
        began = time.monotonic()
        bell.ring(TASKS)
        await asking
        return time.monotonic() - began

    assert asyncio.run(play()) < 0.5
    assert reached == [f"{ACQUIRE_PATH} task?"]
    assert not news.is_set()
    asyncio.run(told("/v1/runtime/push-messages", b"reply"))
    assert news.is_set()
    tasks.clear()
    asyncio.run(told(ACQUIRE_PATH, b"stock"))  # who does not say that it waits
    assert reached[-1] == f"{ACQUIRE_PATH} stock"


def test_another_executor_gives_up_the_last_ones_task_once_flower_has_let_it_in() -> None:
    abandoned, answers = list[str](), [200]

    async def flower(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": answers[-1], "headers": []})

    app = holding(flower, lambda: True, Bell(), threading.Event(), lambda: abandoned.append("task"))

    def ask(name: bytes) -> None:
        scope = {"type": "http", "path": ACQUIRE_PATH, "headers": [(EXECUTOR_HEADER.encode(), name)]}

        async def play() -> None:
            await app(scope, once(b""), _nowhere)

        asyncio.run(play())

    ask(b"first")
    ask(b"first")
    assert abandoned == []
    answers.append(401)
    ask(b"stranger")
    assert abandoned == [], "who does not know the secret ends nobody's task"
    answers.append(200)
    ask(b"second")
    ask(b"second")
    assert abandoned == ["task"]


def test_a_task_that_is_given_up_is_answered_at_once() -> None:
    state = InMemoryNodeState(ObjectStoreFactory().store())
    run = Run.create_empty(run_id=7)
    state.store_run(run)
    task_id = state.create_task(TaskType.CLIENT_APP, run_id=7, fab_hash=None)
    assert task_id is not None
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 5, 7, 1
    message = Message(RecordDict(), 1, "train")
    message.metadata.__dict__["_message_id"] = "m"
    state.store_message(message)
    assert state.claim_task(task_id)
    assert state.activate_task(task_id)
    state.get_messages_legacy(is_reply=False)
    assert state.get_messages_legacy(is_reply=True) == []
    give_up_tasks(state)
    (reply,) = state.get_messages_legacy(is_reply=True)
    assert reply.error.code == ErrorCode.CLIENT_APP_CRASHED


def request(path: str, wait: bytes = b"") -> Scope:
    return {"type": "http", "path": path, "headers": [(WAIT_HEADER.encode(), wait)] if wait else []}


def once(body: bytes) -> Receive:
    pieces = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return pieces.pop() if pieces else await asyncio.Future()

    return receive


async def _nowhere(_message: Any) -> None:
    return None


def test_the_signer_takes_the_place_of_flowers(run_main: RunMain) -> None:
    def flower() -> None:

        node.create_app(NodeStateFactory(ObjectStoreFactory()), b"secret")
        made = CONNECTION.NodeAuthHttpInterceptor(*generate_key_pairs())
        print(type(made._outer).__name__, type(made._inner).__name__)
        sys.exit()

    assert run_main(flower).stdout.strip() == "Carrier WholeRequestSigner"


def test_a_clock_that_was_set_back_makes_no_time_negative(run_main: RunMain) -> None:
    def flower() -> None:

        factory = NodeStateFactory(ObjectStoreFactory())
        node.create_app(factory, b"secret")
        state: Any = factory.state()
        times = {"m": SimpleNamespace(starting_at=5000.0, finished_at=1400.0)}
        state._cleanup_old_message_times = lambda: None
        state.time_store = times
        print(state.get_message_processing_duration("m"))
        times["m"].finished_at = 5002.5
        print(state.get_message_processing_duration("m"))
        sys.exit()

    ended = run_main(flower)
    assert ended.stdout.split() == ["0.0", "2.5"], ended.stderr
