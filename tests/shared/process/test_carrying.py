"""Objects behind a message: read as they were written, overlooked by stock Flower, and asked for no more."""

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import ConfigRecord, RecordDict

from shared.flower.http import ProtobufRequestContext
from shared.flower.messages import (
    ConfirmMessageReceivedRequest,
    Node,
    ObjectTree,
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PullMessagesRequest,
    PullObjectRequest,
    PullObjectResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
    get_all_nested_objects,
    get_object_tree,
)
from shared.process.carrying import (
    LARGE_BYTES,
    MOST_BYTES,
    Carrier,
    Handlers,
    carrying,
    hand_out,
    object_id,
    read_carried,
    taking,
)

CONTENTS = [b"first", b"second" * 1000, b"third"]


def tree_of(*contents: bytes) -> ObjectTree:
    root, *others = map(object_id, contents)
    return ObjectTree(object_id=root, children=[ObjectTree(object_id=name) for name in others])


def test_what_a_message_carries_is_read_as_it_was_written() -> None:
    asked = PullMessagesRequest(node=Node(node_id=2**64 - 1))
    body = asked.SerializeToString() + taking(300) + carrying(CONTENTS)
    found = read_carried(body)
    assert (found.takes, list(found.objects)) == (300, CONTENTS)
    assert PullMessagesRequest.FromString(body).node == asked.node
    assert read_carried(asked.SerializeToString()) == read_carried(b"")


def test_nobody_is_sent_more_than_there_may_be() -> None:
    assert read_carried(taking(2**40)).takes == MOST_BYTES


@pytest.mark.parametrize(
    "body",
    [b"\x80" * 20, carrying([b"cut"])[:-1], b"\x0b", taking() * 5, b"\x09\x00"],
    ids=["endless number", "cut", "of no kind", "many fields", "half a number"],
)
def test_a_body_that_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"field|number"):
        read_carried(body, most_fields=4)


def test_an_answer_carries_what_fits() -> None:
    objects = {object_id(content): content for content in CONTENTS}
    answer = PullAppMessagesResponse(message_object_trees=[tree_of(*CONTENTS)])
    assert not hand_out(answer, objects.get, 20)
    assert set(read_carried(answer.SerializeToString()).objects) == {b"first", b"third"}
    whole = PullAppMessagesResponse(message_object_trees=[tree_of(*CONTENTS)])
    assert hand_out(whole, objects.get, MOST_BYTES)


class Store(dict[str, bytes]):
    """A process's database, as far as Flower's handlers are asked of it."""

    @property
    def object_store(self) -> "Store":
        return self

    def store_object(self, _run: int, _session: str, name: str, content: bytes) -> bool:
        self[name] = content
        return True

    def delete(self, name: str) -> None:
        del self[name]


class Wire:
    """The other side: Flower's handlers behind ours, and how many requests came."""

    def __init__(self, store: Store, handlers: Any) -> None:
        self.store, self.handlers, self.requests, self.bytes = store, Handlers(handlers), list[str](), list[int]()

    def call(self, carrier: Carrier, path: str, message: Any) -> bytes:
        request = httpx.Request("POST", f"http://here/v1/runtime/{path}", content=message.SerializeToString())
        return carrier.intercept(ProtobufRequestContext("", message, request), self._serve).content

    def _serve(self, context: ProtobufRequestContext) -> httpx.Response:
        path = context.request.url.path.rpartition("/")[2]
        self.requests.append(path)
        self.bytes.append(len(context.request.content))
        assert context.request.headers["content-length"] == str(len(context.request.content))
        known: dict[str, tuple[Any, Any]] = {
            "push-messages": (PushAppMessagesRequest, self.handlers.push_messages),
            "pull-messages": (PullAppMessagesRequest, self.handlers.pull_messages),
        }
        kind, handler = known[path]
        answer = handler(kind.FromString(context.request.content), self.store, SimpleNamespace(run_id=1))
        return httpx.Response(200, content=answer.SerializeToString())


def test_a_message_that_comes_whole_takes_one_request() -> None:
    store = Store({object_id(content): content for content in CONTENTS})
    tree = tree_of(*CONTENTS)
    wire = Wire(store, SimpleNamespace(pull_messages=lambda *_: PullAppMessagesResponse(message_object_trees=[tree])))
    carrier = Carrier(confirms=True)
    wire.call(carrier, "pull-messages", PullAppMessagesRequest())
    for content in CONTENTS:
        asked = PullObjectRequest(object_id=object_id(content))
        assert PullObjectResponse.FromString(wire.call(carrier, "pull-object", asked)).object_content == content
    wire.call(carrier, "confirm-message-received", ConfirmMessageReceivedRequest(message_object_id=tree.object_id))
    assert wire.requests == ["pull-messages"]
    assert tree.object_id not in store


def test_a_message_is_announced_with_its_objects_and_a_large_one_is_not_sent_twice_in_a_row() -> None:
    store, session = Store(), "s"

    def push(request: Any, *_: Any) -> Any:
        names = get_names(request.message_object_trees[0])
        return PushAppMessagesResponse(session_id=session, objects_to_push=[n for n in names if n not in store])

    wire, carrier = Wire(store, SimpleNamespace(push_messages=push)), Carrier(takes=MOST_BYTES)
    for said in ("one", "two"):
        blob = ConfigRecord({"blob": bytes(LARGE_BYTES)})
        message = RecordDict({"blob": blob, "said": ConfigRecord({"said": said})})
        carrier.offer(message)
        request = PushAppMessagesRequest(message_object_trees=[get_object_tree(message)])
        answer = PushAppMessagesResponse.FromString(wire.call(carrier, "push-messages", request))
        assert not answer.objects_to_push
        assert set(get_all_nested_objects(message)) <= set(store)
    assert wire.requests == ["push-messages"] * 2
    assert wire.bytes[1] < LARGE_BYTES < wire.bytes[0]


def get_names(tree: ObjectTree) -> list[str]:
    return [tree.object_id, *(name for child in tree.children for name in get_names(child))]


def test_stock_flower_is_sent_nothing_that_it_has_not_asked_for() -> None:
    store = Store({object_id(content): content for content in CONTENTS})
    handlers = Handlers(
        SimpleNamespace(pull_messages=lambda *_: PullAppMessagesResponse(message_object_trees=[tree_of(*CONTENTS)]))
    )
    answer = handlers.pull_messages(PullAppMessagesRequest(), store, SimpleNamespace(run_id=1))
    assert read_carried(answer.SerializeToString()) == read_carried(b"")
    assert len(store) == len(CONTENTS)
    carrier, body = Carrier(lambda _: b"unasked"), PushAppMessagesRequest(message_object_trees=[tree_of(*CONTENTS)])
    wire = Wire(
        store,
        SimpleNamespace(
            push_messages=lambda request, *_: PushAppMessagesResponse(objects_to_push=["asked"] * (request == body))
        ),
    )
    assert PushAppMessagesResponse.FromString(wire.call(carrier, "push-messages", body)).objects_to_push == ["asked"]
