"""What the door asks Flower's database: whom a message was for, and what belongs to it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import and_, bindparam, or_, select, union_all
from sqlalchemy.sql import Executable

from shared.flower.constants import NodeStatus
from shared.flower.store import (
    MessageIns,
    MessageRes,
    Node,
    ObjectChild,
    ObjectPushSession,
    ObjectPushSessionPending,
    ObjectPushSessionRoot,
    SqlLinkState,
    Task,
    int64_to_uint64,
    uint64_to_int64,
)

# Questions are made once, and name columns instead of objects: to put one together, or an object of its answer, takes
# several times as long as to answer it.
_ENROLLED = select(Node.node_id).where(
    Node.public_key == bindparam("public_key"), Node.status != NodeStatus.UNREGISTERED
)
_REVOKED = select(Node.node_id).where(
    Node.public_key == bindparam("public_key"), Node.status == NodeStatus.UNREGISTERED
)
_NAME = select(Node.name).where(Node.node_id == bindparam("node"), Node.status != NodeStatus.UNREGISTERED)
_INCOMPLETE = (
    select(MessageRes.reply_to_message_id)
    .join(ObjectPushSessionRoot, ObjectPushSessionRoot.root_object_id == MessageRes.message_id)
    .join(ObjectPushSession, ObjectPushSession.session_id == ObjectPushSessionRoot.session_id)
    .where(ObjectPushSession.pending_count > 0)
)
"""The messages whose reply is announced, but has objects that have not come yet."""
_INSTRUCTION = (
    select(
        MessageIns.dst_node_id,
        MessageIns.run_id,
        MessageIns.message_type,
        MessageIns.group_id,
        MessageIns.delivered_at,
        MessageRes.message_id,
        _INCOMPLETE.where(MessageRes.reply_to_message_id == MessageIns.message_id).exists(),
    )
    .outerjoin(MessageRes, MessageRes.reply_to_message_id == MessageIns.message_id)
    .where(MessageIns.message_id == bindparam("message"))
)
_ANSWERED = (
    select(MessageIns.message_id)
    .outerjoin(MessageRes, MessageRes.reply_to_message_id == MessageIns.message_id)
    .outerjoin(Node, Node.node_id == MessageIns.dst_node_id)
    .where(
        MessageIns.message_id.in_(bindparam("messages", expanding=True)),
        or_(
            and_(MessageRes.message_id.is_not(None), MessageIns.message_id.not_in(_INCOMPLETE)),
            MessageIns.created_at + MessageIns.ttl <= bindparam("now"),
            Node.status == NodeStatus.UNREGISTERED,
        ),
    )
)
"""Of these messages, those whose reply is whole, and those for which Flower has an error in its place."""
_KNOWN = select(MessageIns.message_id).where(MessageIns.message_id.in_(bindparam("messages", expanding=True)))
_PENDING_TASK = select(Task.task_id).where(Task.starting_at.is_(None), Task.finished_at.is_(None)).limit(1)
_TAKES_PART = (
    select(MessageIns.message_id)
    .where(MessageIns.dst_node_id == bindparam("node"), MessageIns.run_id == bindparam("run"))
    .limit(1)
)
_MESSAGES = union_all(
    *(
        select(table.message_id).where(table.message_id.in_(bindparam("objects", expanding=True)))
        for table in (MessageIns, MessageRes)
    )
).limit(1)
_ABOVE = select(ObjectChild.parent_id).where(ObjectChild.child_id == bindparam("object")).cte("above", recursive=True)
_ABOVE = _ABOVE.union(select(ObjectChild.parent_id).join(_ABOVE, ObjectChild.child_id == _ABOVE.c.parent_id))
_SENT = (
    select(MessageIns.message_id)
    .where(
        MessageIns.dst_node_id == bindparam("node"),
        MessageIns.run_id == bindparam("run"),
        or_(MessageIns.message_id == bindparam("object"), MessageIns.message_id.in_(select(_ABOVE.c.parent_id))),
    )
    .limit(1)
)
"""A message for the node in the run that the object is part of."""
_WAITING = (
    select(MessageRes.message_id)
    .join(ObjectPushSessionRoot, ObjectPushSessionRoot.root_object_id == MessageRes.message_id)
    .join(ObjectPushSessionPending, ObjectPushSessionPending.session_id == ObjectPushSessionRoot.session_id)
    .where(
        ObjectPushSessionPending.object_id == bindparam("object"),
        MessageRes.src_node_id == bindparam("node"),
        MessageRes.run_id == bindparam("run"),
    )
    .limit(1)
)
"""A reply of the node in the run that waits for the object."""
_WAITING_IN = _WAITING.where(ObjectPushSessionPending.session_id == bindparam("session"))
"""The same, in one of its uploads."""


@dataclass(frozen=True)
class Instruction:
    """A message that the coordinator has for a node."""

    node_id: int
    run_id: int
    message_type: str
    group_id: str
    delivered: bool
    reply_id: str | None = None
    """Of the reply that was announced, if one was."""
    incomplete: bool = False
    """Whether objects of that reply are still awaited."""


class Records:
    """Questions that Flower's LinkState has no function for, and one that it takes longer for, asked of its tables.

    Each is one statement in a connection of its own: a session, which could change rows, costs as much again.

    Args:
        state: Flower's database.
    """

    def __init__(self, state: SqlLinkState) -> None:
        with state.session() as session:
            self._engine = session.connection().engine

    def get_node_id_by_public_key(self, public_key: bytes) -> int | None:
        """The enrolled node that has this key, if one does."""
        found = self._first(_ENROLLED, {"public_key": public_key})
        return None if found is None else int64_to_uint64(found[0])

    def was_revoked(self, public_key: bytes) -> bool:
        """Whether a node that had this key was revoked, has left, or got another key."""
        return self._first(_REVOKED, {"public_key": public_key}) is not None

    def name_of(self, node_id: int) -> str:
        """The name under which a node is enrolled; empty if it has none."""
        found = self._first(_NAME, {"node": uint64_to_int64(node_id)})
        return str(found[0] or "") if found else ""

    def instruction(self, message_id: str) -> Instruction | None:
        """The coordinator's message of this id, if there is one."""
        found = self._first(_INSTRUCTION, {"message": message_id})
        if found is None:
            return None
        node, run, message_type, group, delivered, reply, incomplete = found
        return Instruction(
            node_id=int64_to_uint64(node or 0),
            run_id=int64_to_uint64(run or 0),
            message_type=message_type or "",
            group_id=group or "",
            delivered=bool(delivered),
            reply_id=reply,
            incomplete=bool(incomplete),
        )

    def takes_part(self, node_id: int, run_id: int) -> bool:
        """Whether the coordinator has a message for the node in this run."""
        return self._first(_TAKES_PART, _at(node_id, run_id)) is not None

    def awaited_reply(self, node_id: int, run_id: int, session_id: str, object_id: str) -> str | None:
        """The reply of the node that waits for this object; with an empty `session_id`, in any of its uploads."""
        about = _at(node_id, run_id) | {"object": object_id}
        found = (
            self._first(_WAITING_IN, about | {"session": session_id}) if session_id else self._first(_WAITING, about)
        )
        return None if found is None else str(found[0])

    def was_sent(self, node_id: int, run_id: int, object_id: str) -> bool:
        """Whether an object is part of a message that the coordinator has for the node."""
        return self._first(_SENT, _at(node_id, run_id) | {"object": object_id}) is not None

    def messages_among(self, object_ids: Collection[str]) -> bool:
        """Whether one of these objects is a message by itself."""
        return self._first(_MESSAGES, {"objects": list(object_ids)}) is not None

    def answered(self, message_ids: Collection[str]) -> set[str]:
        """Of these messages, those to which the coordinator gets an answer now, be it an error."""
        about = {"messages": list(message_ids), "now": datetime.now(UTC).timestamp()}
        with self._engine.connect() as connection:
            answered = {str(found) for found in connection.scalars(_ANSWERED, about)}
            known = {str(found) for found in connection.scalars(_KNOWN, about)}
        return answered | (set(message_ids) - known)

    def has_task(self) -> bool:
        """Whether a run waits for its ServerApp to be started."""
        return self._first(_PENDING_TASK, {}) is not None

    def _first(self, question: Executable, about: Mapping[str, Any]) -> tuple[Any, ...] | None:
        with self._engine.connect() as connection:
            found = connection.execute(question, about).first()
        return None if found is None else tuple(found)


def _at(node_id: int, run_id: int) -> dict[str, Any]:
    return {"node": uint64_to_int64(node_id), "run": uint64_to_int64(run_id)}
