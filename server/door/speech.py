"""Who may say what: an enrolled node speaks for itself, to the coordinator, about what it was sent.

Flower stores a message without `reply_to` as an instruction, lets everybody push and pull every object, and deletes the
message that it is told has been received. So each of its fleet's requests is looked at here; one that is not in
`Speech.paths` does not exist.
"""

from collections.abc import Callable
from itertools import islice
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from server.door.authentication import Sender
from server.door.limits import BODY_BYTES, OBJECT_BYTES, MessageLimits, Uploads
from server.door.records import Records
from server.door.refusals import RefusedError
from shared.errors import ProtocolError
from shared.federation.offers import PATH as AGREEMENT_PATH
from shared.federation.offers import read_word
from shared.flower.constants import HEARTBEAT_DEFAULT_INTERVAL, SUPERLINK_NODE_ID
from shared.flower.messages import MessageProto as FlowerMessage
from shared.flower.messages import ObjectTree, PushMessagesRequest, is_valid_sha256_hash, iterate_object_tree
from shared.flower.superlink import PROTOBUF_REQUEST_TYPES
from shared.process.carrying import MOST_BYTES, NOTHING, Carried, object_id, read_carried

PUSH_MESSAGES, PUSH_OBJECT, PULL_MESSAGES = (
    "/v1/fleet/push-messages",
    "/v1/fleet/push-object",
    "/v1/fleet/pull-messages",
)
WORD_BYTES = 4096
LONGEST = {PUSH_OBJECT: OBJECT_BYTES, PUSH_MESSAGES: BODY_BYTES + MOST_BYTES, AGREEMENT_PATH: WORD_BYTES}
FEW_FIELDS = 16
"""More than a request of Flower's has, beside the objects that it carries."""

Check = Callable[[Any, Sender], None]
"""Raises RefusedError unless the sender may ask this."""


class Speech:
    """The rules, one per request.

    Args:
        records: What Flower's database says.
        limits: How large a reply may be.
    """

    def __init__(self, records: Records, limits: MessageLimits) -> None:
        self._records, self._limits, self._uploads = records, limits, Uploads(limits)
        self.paths: dict[str, Check] = {
            "/v1/fleet/activate-node": self._activate_node,
            "/v1/fleet/deactivate-node": self._deactivate_node,
            "/v1/fleet/send-node-heartbeat": self._send_node_heartbeat,
            PULL_MESSAGES: _in_its_own_name,
            PUSH_MESSAGES: self._push_messages,
            "/v1/fleet/get-run": self._about_its_run,
            "/v1/fleet/get-fab": self._about_its_run,
            PUSH_OBJECT: self._push_object,
            "/v1/fleet/pull-object": self._pull_object,
            "/v1/fleet/confirm-message-received": self._confirm_message_received,
            AGREEMENT_PATH: _signs_it_whole,
        }
        """`register-node` and `unregister-node` are missing: institutions are enrolled by the operator."""

    def check(self, path: str, body: bytes, sender: Sender) -> tuple[Any, Carried]:
        """Flower's message and what it carries, if it may pass; asks the database, so call it from a worker thread.

        Raises:
            RefusedError: The body is not what the path takes, or the sender may not say this.
        """
        request: Any
        carried = NOTHING
        try:
            if path == AGREEMENT_PATH:
                request = read_word(body)
            else:
                if path in (PUSH_MESSAGES, PULL_MESSAGES):
                    carried = read_carried(body, FEW_FIELDS + self._limits.max_objects)
                request = PROTOBUF_REQUEST_TYPES["POST", path]()
                request.ParseFromString(body)
        except ProtocolError:
            raise RefusedError(400, "a body that is no institution's word") from None
        except (DecodeError, ValueError):
            raise RefusedError(400, "a body that is no message of Flower's") from None
        size = sum(map(len, carried.objects))
        if size and len(body) - size > BODY_BYTES:
            raise RefusedError(413, f"a message of {len(body) - size} bytes beside its objects, more than {BODY_BYTES}")
        self.paths[path](request, sender)
        if carried.objects:
            self._check_carried(request, carried.objects)
        return request, carried

    def longest_body(self, path: str) -> int:
        """Bytes that a request to this path may have."""
        return LONGEST.get(path, BODY_BYTES)

    def _activate_node(self, request: Any, sender: Sender) -> None:
        _must(request.public_key == sender.public_key, "activates another key")
        _beats_as_flower_does(request)

    def _deactivate_node(self, request: Any, sender: Sender) -> None:
        _must(request.node_id == sender.node_id, "deactivates another node")

    def _send_node_heartbeat(self, request: Any, sender: Sender) -> None:
        _in_its_own_name(request, sender)
        _beats_as_flower_does(request)

    def _about_its_run(self, request: Any, sender: Sender) -> None:
        _in_its_own_name(request, sender)
        _must(self._records.takes_part(sender.node_id, request.run_id), "asks about a run that is not its own")

    def _push_messages(self, request: PushMessagesRequest, sender: Sender) -> None:
        _in_its_own_name(request, sender)
        # Flower stores the first one and drops the others.
        _must(len(request.messages_list) == len(request.message_object_trees) == 1, "pushes other than one message")
        _must(len(request.clientapp_runtime_list) <= 1, "tells several times")
        _must(all(0 <= seconds < 1e7 for seconds in request.clientapp_runtime_list), "tells an impossible time")
        message, tree = request.messages_list[0], request.message_object_trees[0]
        said_before = self._check_reply(message, sender)
        self._check_objects(message.metadata.message_id, tree, said_before)

    def _check_reply(self, message: FlowerMessage, sender: Sender) -> bool:
        """Whether the very same reply has been announced before."""
        about = message.metadata
        _must(about.src_node_id == sender.node_id, "pushes a message in another node's name")
        _must(about.dst_node_id == SUPERLINK_NODE_ID, "pushes a message to another than the coordinator")
        _must(about.reply_to_message_id != "", "pushes an instruction")
        _must(not message.content.items, "pushes content beside its objects")
        asked = self._records.instruction(about.reply_to_message_id)
        _must(asked is not None and asked.delivered, "replies to what nobody asked, or to what has expired")
        assert asked is not None
        same = (sender.node_id, about.run_id, about.message_type, about.group_id)
        asked_that = (asked.node_id, asked.run_id, asked.message_type, asked.group_id) == same
        _must(asked_that, "replies to what another node was asked, or about something else")
        # A SuperNode that lost the answer says the same again, until all of it is there.
        again = asked.reply_id == about.message_id and asked.incomplete
        _must(asked.reply_id is None or again, "replies a second time")
        return again

    def _check_objects(self, message_id: str, tree: ObjectTree, said_before: bool) -> None:
        _must(tree.object_id == message_id, "pushes the objects of another message")
        most = self._limits.max_objects
        objects = [node.object_id for node in islice(iterate_object_tree(tree), most + 1)]
        _must(len(objects) <= most, f"pushes more than {most} objects")
        _must(all(map(is_valid_sha256_hash, objects)), "names objects by what is no hash")
        new = set(objects) - {message_id} if said_before else set(objects)
        _must(not self._records.messages_among(new), "pushes as its own what is a message already")

    def _check_carried(self, request: PushMessagesRequest, objects: tuple[bytes, ...]) -> None:
        reply, tree = request.messages_list[0].metadata.message_id, request.message_object_trees[0]
        known = {node.object_id for node in iterate_object_tree(tree)}
        _must({object_id(content) for content in objects} <= known, "carries an object that is not of its reply")
        self._uploads.add(reply, sum(map(len, objects)))

    def _push_object(self, request: Any, sender: Sender) -> None:
        _in_its_own_name(request, sender)
        reply = self._records.awaited_reply(sender.node_id, request.run_id, request.session_id, request.object_id)
        _must(reply is not None, "pushes an object that no reply of its own waits for")
        assert reply is not None
        self._uploads.add(reply, len(request.object_content))

    def _pull_object(self, request: Any, sender: Sender) -> None:
        _in_its_own_name(request, sender)
        mine = self._records.was_sent(sender.node_id, request.run_id, request.object_id)
        _must(mine, "pulls an object that it was not sent")

    def _confirm_message_received(self, request: Any, sender: Sender) -> None:
        _in_its_own_name(request, sender)
        asked = self._records.instruction(request.message_object_id)
        mine = asked is not None and (asked.node_id, asked.run_id) == (sender.node_id, request.run_id)
        _must(mine and asked is not None and asked.delivered, "confirms a message that it was not sent")


def _signs_it_whole(_request: Any, sender: Sender) -> None:
    _must(sender.digest is not None, "gives its word without signing it")


def _in_its_own_name(request: Any, sender: Sender) -> None:
    if request.node.node_id != sender.node_id:
        raise RefusedError(401, f"node {sender.node_id} speaks as node {request.node.node_id}")


def _beats_as_flower_does(request: Any) -> None:
    # With a longer one a node that has gone would pass for present.
    _must(0 < request.heartbeat_interval <= HEARTBEAT_DEFAULT_INTERVAL, "announces too rare heartbeats")


def _must(allowed: bool, otherwise: str) -> None:
    if not allowed:
        # A SuperNode takes 403 for a run that has ended: it forgets the message, and goes on.
        raise RefusedError(403, f"it {otherwise}")
