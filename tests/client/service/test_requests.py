"""How the SuperNode asks: signed whole, held, again where that loses nothing, and as whom."""

import contextlib
import shutil
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from client.service.requests import (
    ACTIVATE_PATH,
    CONNECT_SECONDS,
    DEACTIVATE_PATH,
    HEARTBEAT_PATH,
    PULL_PATH,
    PUSH_PATH,
    RELEARN_SECONDS,
    LastNode,
    Patience,
    WholeRequestSigner,
)
from shared.flower.crypto import generate_key_pairs
from shared.flower.http import ProtobufRequestContext
from shared.flower.supernode import ActivateNodeResponse, DeactivateNodeRequest, http_retry
from shared.process.waiting import HEADER as WAIT_HEADER
from shared.process.waiting import LONGEST_SECONDS
from shared.signing import HEADER, read_signature


@pytest.fixture
def clock() -> list[float]:
    """Says what the time is: change it."""
    return [1000.0]


@pytest.fixture
def patience(clock: list[float]) -> Patience:
    return Patience(now=lambda: clock[0])


def test_no_connection_is_waited_for_long() -> None:
    limits = {"timeout": {"connect": 30.0, "read": 30.0}}
    request = httpx.Request("POST", f"https://localhost{PULL_PATH}", extensions=limits)
    context = ProtobufRequestContext(rpc_method="", message=None, request=request)
    WholeRequestSigner(*generate_key_pairs(), Patience()).intercept(context, lambda _: httpx.Response(200))
    assert request.extensions["timeout"] == {"connect": CONNECT_SECONDS, "read": 30.0}


def test_what_cuts_questions_is_given_shorter_ones(clock: list[float], patience: Patience) -> None:
    patience.cut(0.2)  # nobody was there: that is no cut
    assert patience.seconds == LONGEST_SECONDS
    patience.cut(10.0)
    assert patience.seconds == 5.0
    patience.cut(5.0)
    assert patience.seconds == 2.5
    clock[0] += RELEARN_SECONDS
    assert patience.seconds == LONGEST_SECONDS


EOF = "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol (_ssl.c:1006)"
HANDSHAKE = "_ssl.c:989: The handshake operation timed out"


@pytest.mark.parametrize(
    ("error", "known", "tried_again"),
    [
        (httpx.ConnectError(EOF), True, True),
        (httpx.ConnectTimeout(HANDSHAKE), True, True),
        (httpx.ConnectError(EOF), False, False),
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"), True, False),
    ],
)
def test_a_handshake_that_is_cut_loses_no_message(error: httpx.TransportError, known: bool, tried_again: bool) -> None:
    """By Flower's own retries, which give up whatever has to do with TLS."""
    signer, answers = WholeRequestSigner(*generate_key_pairs(), Patience()), list[httpx.TransportError | None]()

    def call(_: ProtobufRequestContext) -> httpx.Response:
        if answer := answers.pop(0):
            raise answer
        return httpx.Response(200)

    def push() -> httpx.Response:
        request = httpx.Request("POST", f"https://localhost{PUSH_PATH}")
        return signer.intercept(ProtobufRequestContext(rpc_method="", message=None, request=request), call)

    if known:
        answers.append(None)
        push()
    answers += [error, None]
    retry = http_retry.make_simple_http_retry_invoker()
    retry.wait_function = lambda _: None
    if tried_again:
        assert retry.invoke(push).status_code == 200
    else:
        with pytest.raises(type(error)):
            retry.invoke(push)
        assert answers == [None]


def test_no_answer_ends_the_heartbeats() -> None:
    def answered(status: int) -> int:
        request = httpx.Request("POST", f"https://localhost{HEARTBEAT_PATH}")
        context = ProtobufRequestContext(rpc_method="", message=None, request=request)
        signer = WholeRequestSigner(*generate_key_pairs(), Patience())
        return signer.intercept(context, lambda _: httpx.Response(status)).status_code

    assert answered(500) == 503, "Flower tries again after this"
    assert (answered(200), answered(401)) == (200, 401)


@pytest.mark.parametrize("path", [PULL_PATH, HEARTBEAT_PATH, "/v1/fleet/push-messages"])
@pytest.mark.parametrize("hours", [1, -1])
def test_a_signature_is_made_again_by_the_coordinators_clock(path: str, hours: int) -> None:
    right = datetime.now(UTC) + timedelta(hours=hours)
    times = list[float]()

    def door(context: ProtobufRequestContext) -> httpx.Response:
        signed = read_signature(context.request.headers[HEADER])
        assert signed.verify(pair[1], "POST", path)
        times.append((signed.time - right).total_seconds())
        return httpx.Response(200 if abs(times[-1]) < 5 else 401, headers={"date": format_datetime(right, usegmt=True)})

    pair = generate_key_pairs()
    signer = WholeRequestSigner(*pair, Patience())

    def ask() -> int:
        request = httpx.Request("POST", f"https://localhost{path}")
        return signer.intercept(ProtobufRequestContext(rpc_method="", message=None, request=request), door).status_code

    assert (ask(), ask()) == (200, 200)
    assert len(times) == 3, "the first one was refused"
    right = datetime.now(UTC)  # and somebody has set the clock
    assert ask() == 200
    assert len(times) == 5


def test_who_is_refused_for_another_reason_asks_once() -> None:
    asked = list[ProtobufRequestContext]()

    def door(context: ProtobufRequestContext) -> httpx.Response:
        asked.append(context)
        return httpx.Response(401, headers={"date": format_datetime(datetime.now(UTC), usegmt=True)})

    request = httpx.Request("POST", f"https://localhost{HEARTBEAT_PATH}")
    context = ProtobufRequestContext(rpc_method="", message=None, request=request)
    assert WholeRequestSigner(*generate_key_pairs(), Patience()).intercept(context, door).status_code == 401
    assert len(asked) == 1


def test_every_request_is_signed_whole_and_as_flower_does() -> None:
    pair = generate_key_pairs()
    request = httpx.Request("POST", "https://localhost:1/v1/fleet/push-object?x=1", content=b"abc")
    context = ProtobufRequestContext(rpc_method="", message=None, request=request)
    WholeRequestSigner(*pair, Patience()).intercept(context, lambda _: httpx.Response(200))
    signature = read_signature(request.headers[HEADER])
    assert signature.digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert signature.verify(pair[1], "POST", "/v1/fleet/push-object")
    assert not signature.verify(pair[1], "POST", "/v1/fleet/push-messages")
    assert not signature.verify(generate_key_pairs()[1], "POST", "/v1/fleet/push-object")
    assert "flwr-signature" in request.headers


def question(path: str = "/v1/fleet/pull-messages") -> ProtobufRequestContext:
    request = httpx.Request("POST", f"https://localhost:1{path}", content=b"abc")
    return ProtobufRequestContext(rpc_method="", message=None, request=request)


def test_a_question_may_be_held_and_says_so(patience: Patience) -> None:
    signer, asked = WholeRequestSigner(*generate_key_pairs(), patience), list[str]()

    def answer(context: ProtobufRequestContext) -> httpx.Response:
        asked.append(context.request.headers.get(WAIT_HEADER, ""))
        return httpx.Response(200, headers={WAIT_HEADER: "25"} if asked[-1] else {})

    signer.intercept(question("/v1/fleet/get-run"), answer)
    assert not patience.held
    signer.intercept(question(), answer)
    assert asked == ["", "25"]
    assert patience.held
    signer.intercept(question(), lambda _: httpx.Response(200))
    assert not patience.held


@pytest.mark.parametrize("fault", [504, httpx.ReadTimeout("cut")])
def test_a_proxy_that_cuts_a_question_is_noticed(
    patience: Patience, monkeypatch: pytest.MonkeyPatch, fault: int | Exception
) -> None:
    seconds = iter([0.0, 10.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds, 10.0))

    def cut(_: ProtobufRequestContext) -> httpx.Response:
        if isinstance(fault, Exception):
            raise fault
        return httpx.Response(fault)

    signer = WholeRequestSigner(*generate_key_pairs(), patience)
    with contextlib.suppress(httpx.ReadTimeout):
        signer.intercept(question(), cut)
    assert patience.seconds == 5.0


def test_what_came_too_fast_is_asked_again_with_a_new_signature(patience: Patience) -> None:
    signatures, slept = list[str](), list[float]()
    signer = WholeRequestSigner(*generate_key_pairs(), patience, sleep=slept.append)

    def answer(context: ProtobufRequestContext) -> httpx.Response:
        signatures.append(context.request.headers[HEADER])
        return httpx.Response(429, headers={"retry-after": "7"}) if len(signatures) < 3 else httpx.Response(200)

    assert signer.intercept(question("/v1/fleet/push-object"), answer).status_code == 200
    assert slept == [7.0, 7.0]
    assert len({read_signature(signature).nonce for signature in signatures}) == 3


class Coordinator:
    """Lets a node in unless it counts another process with the same key as online."""

    def __init__(self, online: int | None) -> None:
        self.online = online
        self.paths: list[str] = []

    def __call__(self, context: ProtobufRequestContext) -> httpx.Response:
        path = context.request.url.path
        self.paths.append(path.rpartition("/")[2])
        assert read_signature(context.request.headers[HEADER]).digest == sha256(context.request.content).hexdigest()
        if path == DEACTIVATE_PATH:
            if DeactivateNodeRequest.FromString(context.request.content).node_id == self.online:
                self.online = None
        elif self.online is not None:
            return httpx.Response(409)
        return httpx.Response(200, content=ActivateNodeResponse(node_id=12).SerializeToString())


@pytest.mark.parametrize("remembered", ["here", "elsewhere", "nothing"])
def test_a_killed_supernode_is_taken_leave_of_on_its_own_machine_only(
    patience: Patience, tmp_path: Path, remembered: str
) -> None:
    LastNode(tmp_path / "last.json").write(12)
    if remembered == "elsewhere":
        (tmp_path / "copy").mkdir()
        shutil.copy(tmp_path / "last.json", tmp_path / "copy" / "last.json")
    file = {"here": "last.json", "elsewhere": "copy/last.json", "nothing": "none.json"}[remembered]
    coordinator = Coordinator(online=12)
    signer = WholeRequestSigner(*generate_key_pairs(), patience, last=LastNode(tmp_path / file))
    response = signer.intercept(question(ACTIVATE_PATH), coordinator)
    if remembered == "here":
        assert (response.status_code, coordinator.paths[1:]) == (200, ["deactivate-node", "activate-node"])
    else:
        assert (response.status_code, coordinator.paths) == (409, ["activate-node"]), "it may well be alive"


def test_the_number_of_the_node_is_remembered(patience: Patience, tmp_path: Path) -> None:
    file = tmp_path / "last.json"
    signer = WholeRequestSigner(*generate_key_pairs(), patience, last=LastNode(file))
    assert signer.intercept(question(ACTIVATE_PATH), Coordinator(online=None)).status_code == 200
    assert LastNode(file).read() == 12
    file.write_text("[]", encoding="utf-8")
    assert LastNode(file).read() is None
