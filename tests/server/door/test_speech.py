"""Every request of Flower's fleet has a rule, and the rules that need no database."""

from collections.abc import Iterator

import pytest

from server.door.authentication import Sender
from server.door.limits import BODY_BYTES, CHUNK_BYTES, OBJECT_BYTES, MessageLimits, Uploads
from server.door.refusals import RefusedError
from server.door.speech import Speech
from shared.flower.constants import HEARTBEAT_DEFAULT_INTERVAL
from shared.flower.messages import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    Node,
    ObjectTree,
    PushMessagesRequest,
    SendNodeHeartbeatRequest,
    iterate_object_tree,
)
from shared.flower.superlink import PROTOBUF_REQUEST_TYPES
from shared.process.carrying import MOST_BYTES

SENDER = Sender(node_id=7, public_key=b"mine", digest=None)
MINE, OTHER = Node(node_id=7), Node(node_id=8)


@pytest.fixture
def speech() -> Speech:
    return Speech(None, MessageLimits(2**20))  # type: ignore[arg-type]


def status(speech: Speech, path: str, request: object) -> int:
    try:
        speech.check(f"/v1/fleet/{path}", request.SerializeToString(), SENDER)  # type: ignore[attr-defined]
    except RefusedError as refused:
        return refused.status
    return 200


def test_every_request_of_flowers_fleet_has_a_rule_or_is_closed(speech: Speech) -> None:
    known = {path for _, path in PROTOBUF_REQUEST_TYPES if path.startswith("/v1/fleet/")}
    assert known - set(speech.paths) == {"/v1/fleet/register-node", "/v1/fleet/unregister-node"}
    assert set(speech.paths) - known == {"/v1/collegium/agreement"}


@pytest.mark.parametrize(
    ("path", "request_", "expected"),
    [
        ("activate-node", ActivateNodeRequest(public_key=b"mine", heartbeat_interval=30), 200),
        ("activate-node", ActivateNodeRequest(public_key=b"other", heartbeat_interval=30), 403),
        ("activate-node", ActivateNodeRequest(public_key=b"mine", heartbeat_interval=1800), 403),
        ("activate-node", ActivateNodeRequest(public_key=b"mine", heartbeat_interval=float("nan")), 403),
        ("deactivate-node", DeactivateNodeRequest(node_id=7), 200),
        ("deactivate-node", DeactivateNodeRequest(node_id=8), 403),
        ("send-node-heartbeat", SendNodeHeartbeatRequest(node=MINE, heartbeat_interval=30), 200),
        ("send-node-heartbeat", SendNodeHeartbeatRequest(node=OTHER, heartbeat_interval=30), 401),
        ("send-node-heartbeat", SendNodeHeartbeatRequest(heartbeat_interval=30), 401),
        ("push-messages", PushMessagesRequest(node=MINE), 403),
    ],
)
def test_a_node_speaks_for_itself(speech: Speech, path: str, request_: object, expected: int) -> None:
    assert status(speech, path, request_) == expected


@pytest.mark.parametrize("path", ["pull-messages", "get-run", "get-fab", "push-object", "pull-object"])
def test_in_anothers_name_nothing_is_looked_up(speech: Speech, path: str) -> None:
    kind = PROTOBUF_REQUEST_TYPES["POST", f"/v1/fleet/{path}"]
    assert status(speech, path, kind(node=OTHER)) == 401


def test_what_is_no_message_is_refused(speech: Speech) -> None:
    with pytest.raises(RefusedError) as refused:
        speech.check("/v1/fleet/pull-messages", b"\xff\xff\xff", SENDER)
    assert refused.value.status == 400


def test_flowers_heartbeat_and_pieces_pass_the_limits(speech: Speech) -> None:
    assert HEARTBEAT_DEFAULT_INTERVAL == 30
    assert CHUNK_BYTES < OBJECT_BYTES == speech.longest_body("/v1/fleet/push-object")
    assert speech.longest_body("/v1/fleet/push-messages") == BODY_BYTES + MOST_BYTES
    assert speech.longest_body("/v1/fleet/pull-messages") == BODY_BYTES


def test_a_reply_of_endlessly_many_objects_is_not_walked_to_its_end(
    speech: Speech, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def watched(tree: ObjectTree) -> Iterator[ObjectTree]:
        for node in iterate_object_tree(tree):
            seen.append(node)
            yield node

    monkeypatch.setattr("server.door.speech.iterate_object_tree", watched)
    endless = ObjectTree(object_id="a" * 64, children=[ObjectTree()] * 10_000)
    with pytest.raises(RefusedError, match="objects"):
        speech._check_objects("a" * 64, endless, False)
    assert len(seen) == MessageLimits(2**20).max_objects + 1


def test_a_reply_gets_its_share_of_the_database_and_no_more() -> None:
    uploads = Uploads(MessageLimits(100))
    uploads.add("reply", 60)
    uploads.add("another", 100)
    with pytest.raises(RefusedError, match="max_message_bytes"):
        uploads.add("reply", 41)
    uploads.add("reply", 40)
