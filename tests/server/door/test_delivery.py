"""At a real coordinator: a message reaches who waits for it at once, whole, and again if it got lost."""

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import pytest
from flwr.app import Message

from server.door.delivery import LOST_SECONDS
from server.door.limits import EXPULSION_SECONDS
from server.home import ServerHome
from server.service.grid import carrying
from server.service.operator import OperatorClient
from server.service.replies import answered, own_requests
from shared.enrolment.messages import GONE
from shared.flower.grid import HttpGrid, http_grid
from shared.flower.messages import (
    ConfirmMessageReceivedRequest,
    NodeInfo,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesResponse,
    SendNodeHeartbeatRequest,
    iterate_object_tree,
    message_from_proto,
)
from shared.flower.store import uint64_to_int64
from shared.process.carrying import carrying as objects_behind
from shared.process.carrying import object_id, read_carried, taking
from shared.process.waiting import HEADER, LEAVES_HEADER
from simulations.attacks.coordinator import Institution, Reply, instruct, running, words


@pytest.fixture(scope="module")
def grid(served_home: ServerHome) -> Iterator[HttpGrid]:
    with running(served_home) as grid:
        yield grid


@pytest.fixture
def site(served_home: ServerHome, request: pytest.FixtureRequest) -> Iterator[Institution]:
    institution = Institution(served_home, request.node.name)
    with closing(institution.http):
        yield institution


class Asking:
    """A question that may be held, asked in a thread of its own."""

    def __init__(self, site: Institution, seconds: float = 20.0) -> None:
        self._request = site.request("pull-messages", PullMessagesRequest(node=site.node).SerializeToString())
        self._request.headers[HEADER] = str(seconds)
        self._site = site
        self.answer: httpx.Response | None = None
        self.at = 0.0
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        time.sleep(0.5)

    def _ask(self) -> None:
        self.answer = self._site.http.send(self._request)
        self.at = time.monotonic()

    @property
    def waits(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> list[Any]:
        """The messages that came."""
        self._thread.join(timeout=30)
        assert self.answer is not None
        assert self.answer.status_code == 200
        return list(PullMessagesResponse.FromString(self.answer.content).messages_list)


def test_a_message_reaches_who_waits_for_it_at_once(grid: HttpGrid, site: Institution) -> None:
    asking = Asking(site)
    assert asking.waits
    instruct(grid, site, "now")
    sent = time.monotonic()
    assert len(asking.end()) == 1
    assert asking.at - sent < 0.5
    assert asking.answer is not None
    assert asking.answer.headers[HEADER] == "25"


def test_a_stock_supernode_is_answered_at_once(site: Institution) -> None:
    began = time.monotonic()
    answer = site.ask("pull-messages", PullMessagesRequest(node=site.node))
    assert answer.status_code == 200
    assert HEADER not in answer.headers
    assert time.monotonic() - began < 2.0


def test_when_the_time_is_over_the_answer_is_empty(site: Institution) -> None:
    began = time.monotonic()
    assert Asking(site, seconds=1.0).end() == []
    assert 1.0 <= time.monotonic() - began < 4.0


def test_the_next_question_ends_the_one_before(grid: HttpGrid, site: Institution) -> None:
    first = Asking(site)
    second = Asking(site)
    assert first.end() == []
    assert second.waits
    instruct(grid, site, "for the second")
    assert len(second.end()) == 1


def test_a_message_is_handed_out_when_all_of_it_is_there(
    grid: HttpGrid, site: Institution, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[bool]()
    push = vars(http_grid)["push_objects"]

    def late(*about: Any, **more: Any) -> None:
        seen.append(site.pull() is None)  # announced, and its objects have not come
        push(*about, **more)

    monkeypatch.setitem(vars(http_grid), "push_objects", late)
    asking_after = instruct(grid, site, "whole")
    assert seen == [True]
    message = site.pull()
    assert message is not None
    assert message.metadata.message_id == asking_after


def test_a_message_that_got_lost_on_its_way_is_handed_out_again(grid: HttpGrid, site: Institution) -> None:
    instruct(grid, site, "lost")
    lost = site.pull()
    assert lost is not None
    assert site.pull() is None, "at first it may be on its way"
    time.sleep(LOST_SECONDS + 0.2)
    (again,) = Asking(site).end()
    assert again.metadata.message_id == lost.metadata.message_id
    confirm(site, lost)
    time.sleep(LOST_SECONDS + 0.2)
    assert site.pull() is None, "it has confirmed that it got it"
    assert site.answer(lost, words("here"))


def confirm(site: Institution, message: Message) -> None:
    about = message.metadata
    request = ConfirmMessageReceivedRequest(node=site.node, run_id=about.run_id, message_object_id=about.message_id)
    assert site.ask("confirm-message-received", request).status_code == 200


def test_a_revoked_institution_does_not_wait(served_home: ServerHome, site: Institution) -> None:
    asking = Asking(site)
    with OperatorClient(served_home) as operator:
        operator.unregister_node(site.node_id)
    revoked = time.monotonic()
    with pytest.raises(AssertionError):
        asking.end()
    assert asking.answer is not None
    assert asking.answer.status_code == 401
    assert asking.at - revoked < 0.5


def test_nobody_waits_for_a_revoked_institution_and_its_connections_end(
    served_home: ServerHome, grid: HttpGrid, site: Institution
) -> None:
    message = instruct(grid, site, "too late")
    assert site.pull() is not None
    (connection,) = site.http._transport._pool.connections  # type: ignore[attr-defined]
    assert not connection.has_expired()
    with own_requests(served_home) as http, ThreadPoolExecutor(1) as pool, OperatorClient(served_home) as operator:
        waiting = pool.submit(answered, http, [message], 20.0)
        time.sleep(0.5)
        assert not waiting.done()
        operator.unregister_node(site.node_id)
        revoked = time.monotonic()
        assert waiting.result(5) == {message}
        assert time.monotonic() - revoked < 1
    (reply,) = grid.pull_messages([message])
    assert reply.error.reason == GONE
    time.sleep(max(0.0, revoked + EXPULSION_SECONDS + 0.5 - time.monotonic()))
    assert connection.has_expired(), "the other end has closed it"


def test_the_coordinator_hears_of_a_reply_at_once(served_home: ServerHome, grid: HttpGrid, site: Institution) -> None:
    with own_requests(served_home) as http:
        message = instruct(grid, site, "answer me")
        began = time.monotonic()
        assert answered(http, [message], 1.0) == set()
        assert time.monotonic() - began >= 1.0
        asked, heard = site.pull(), list[float]()
        assert asked is not None

        def wait() -> None:
            assert answered(http, [message], 20.0) == {message}
            heard.append(time.monotonic())

        thread = threading.Thread(target=wait)
        thread.start()
        assert site.answer(asked, words("here"))
        replied = time.monotonic()
        thread.join(timeout=30)
    assert heard[0] - replied < 0.5


def go_offline(home: ServerHome, site: Institution) -> None:
    """As if nothing had been heard of it for a minute."""
    with closing(sqlite3.connect(home.superlink_database)) as database, database:
        changed = database.execute(
            "UPDATE node SET online_until = 1 WHERE node_id = ?", [uint64_to_int64(site.node_id)]
        )
        assert changed.rowcount == 1


def test_who_was_cut_off_still_answers(served_home: ServerHome, grid: HttpGrid, site: Institution) -> None:
    def mine() -> list[NodeInfo]:
        return [node for node in grid.get_nodes() if node.node_id == site.node_id]

    message = instruct(grid, site, "take your time")
    asked = site.pull()
    assert asked is not None
    (before,) = mine()
    go_offline(served_home, site)
    assert mine() == []
    with own_requests(served_home) as http:
        assert answered(http, [message], 0.5) == set()
        assert list(grid.pull_messages([message])) == [], "Flower has an error in the place of the reply"
        heartbeat = SendNodeHeartbeatRequest(node=site.node, heartbeat_interval=30)
        assert site.ask("send-node-heartbeat", heartbeat).status_code == 200
        (after,) = mine()
        assert after.last_activated_at == before.last_activated_at, "the same process"
        assert site.answer(asked, words("here"))
        go_offline(served_home, site)
        assert answered(http, [message], 0.5) == {message}
    (reply,) = grid.pull_messages([message])
    assert reply.content == words("here")


def test_who_leaves_with_a_reply_is_not_online_when_the_reply_is_there(
    served_home: ServerHome, grid: HttpGrid, site: Institution
) -> None:
    message = instruct(grid, site, "the last one")
    asked = site.pull()
    assert asked is not None
    reply = Reply.to(asked, words("and gone"))
    some, rest = list(reply.objects.values())[:-1], list(reply.objects)[-1]

    def online() -> bool:
        return any(node.node_id == site.node_id and node.status == "online" for node in grid.get_nodes())

    taken = PushMessagesResponse.FromString(announce(site, reply, some, LEAVES_HEADER).content)
    assert online(), "the rest of it is to come"
    run_id = asked.metadata.run_id
    assert site.push_object(run_id, taken.session_id, rest, reply.objects[rest]).status_code == 200
    (back,) = grid.pull_messages([message])
    assert back.content == words("and gone")
    instruct(grid, site, "really the last one")
    asked = site.pull()
    assert asked is not None
    last = Reply.to(asked, words("bye"))
    assert announce(site, last, last.objects.values(), LEAVES_HEADER).status_code == 200
    assert not online()


def test_what_flower_does_not_know_counts_as_answered(served_home: ServerHome, grid: HttpGrid) -> None:
    with own_requests(served_home) as http:
        assert answered(http, ["0" * 64], 20.0) == {"0" * 64}
    (reply,) = grid.pull_messages(["0" * 64])
    assert reply.has_error()


def test_a_message_and_its_reply_travel_with_their_objects(grid: HttpGrid, site: Institution) -> None:
    whole = carrying(grid)
    message = Message(words("take all"), site.node_id, "query", ttl=60.0, group_id="1")
    (asked,) = whole.push_messages([message])
    body = site.http.send(site.request("pull-messages", question(site))).content
    found = PullMessagesResponse.FromString(body)
    objects = {object_id(content) for content in read_carried(body).objects}
    assert objects == {node.object_id for node in iterate_object_tree(found.message_object_trees[0])}
    got = message_from_proto(found.messages_list[0])
    confirm(site, got)
    reply = Reply.to(got, words("all of it"))
    answer = announce(site, reply, reply.objects.values())
    assert answer.status_code == 200
    assert not PushMessagesResponse.FromString(answer.content).objects_to_push
    (back,) = whole.pull_messages([asked])
    assert back.content == words("all of it")


def test_only_the_objects_of_a_reply_come_with_it(grid: HttpGrid, site: Institution) -> None:
    instruct(grid, site, "not more")
    got = site.pull()
    assert got is not None
    reply = Reply.to(got, words("this"))
    assert announce(site, reply, [*reply.objects.values(), b"of another"]).status_code == 403
    assert announce(site, reply, [b"small"] * 1000).status_code == 400
    some = list(reply.objects.values())[:-1]
    taken = PushMessagesResponse.FromString(announce(site, reply, some).content)
    assert list(taken.objects_to_push) == [name for name, content in reply.objects.items() if content not in some]


def question(site: Institution) -> bytes:
    asked: bytes = PullMessagesRequest(node=site.node).SerializeToString()
    return asked + taking()


def announce(site: Institution, reply: Reply, objects: Iterable[bytes], *headers: str) -> httpx.Response:
    body = reply.request(site.node).SerializeToString() + objects_behind(objects)
    request = site.request("push-messages", body)
    request.headers.update(dict.fromkeys(headers, "1"))
    return site.http.send(request)
