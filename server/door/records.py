"""What the door asks Flower's database: whom a message was for, and what belongs to it."""

from collections.abc import Collection
from dataclasses import dataclass

from flwr.app import Message
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.state.schema.corestate_models import (
    ObjectPushSession,
    ObjectPushSessionPending,
    ObjectPushSessionRoot,
)
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes
from flwr.supercore.state.schema.objectstore_models import ObjectChild
from flwr.supercore.utils import int64_to_uint64, uint64_to_int64
from sqlalchemy import bindparam, or_, select

# Made once: to put such a question together takes longer than to answer it.
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


class Records:
    """Questions that Flower's LinkState has no function for, asked through its own session and tables.

    Args:
        state: Flower's database.
    """

    def __init__(self, state: SqlLinkState) -> None:
        self._state = state

    def instruction(self, message_id: str) -> Instruction | None:
        """The coordinator's message of this id, if there is one."""
        with self._state.session() as session:
            found = session.scalar(select(MessageIns).where(MessageIns.message_id == message_id))
            if found is None:
                return None
            return Instruction(
                node_id=int64_to_uint64(found.dst_node_id or 0),
                run_id=int64_to_uint64(found.run_id or 0),
                message_type=found.message_type or "",
                group_id=found.group_id or "",
                delivered=bool(found.delivered_at),
            )

    def takes_part(self, node_id: int, run_id: int) -> bool:
        """Whether the coordinator has a message for the node in this run."""
        mine = select(MessageIns.message_id).where(
            MessageIns.dst_node_id == uint64_to_int64(node_id), MessageIns.run_id == uint64_to_int64(run_id)
        )
        with self._state.session() as session:
            return session.scalar(mine.limit(1)) is not None

    def answer_to(self, message_id: str) -> tuple[str, bool] | None:
        """The id of the reply to a message, if one was announced, and whether its objects are still awaited."""
        with self._state.session() as session:
            reply = session.scalar(select(MessageRes.message_id).where(MessageRes.reply_to_message_id == message_id))
            return (reply, bool(awaited(self._state, [message_id]))) if reply else None

    def awaited_reply(self, node_id: int, run_id: int, session_id: str, object_id: str) -> str | None:
        """The reply of the node that waits for this object; with an empty `session_id`, in any of its uploads."""
        about = {"object": object_id, "node": uint64_to_int64(node_id), "run": uint64_to_int64(run_id)}
        with self._state.session() as session:
            if session_id:
                return session.scalar(_WAITING_IN, about | {"session": session_id})
            return session.scalar(_WAITING, about)

    def was_sent(self, node_id: int, run_id: int, object_id: str) -> bool:
        """Whether an object is part of a message that the coordinator has for the node."""
        about = {"object": object_id, "node": uint64_to_int64(node_id), "run": uint64_to_int64(run_id)}
        with self._state.session() as session:
            return session.scalar(_SENT, about) is not None

    def messages_among(self, object_ids: Collection[str]) -> bool:
        """Whether one of these objects is a message by itself."""
        with self._state.session() as session:
            return any(
                session.scalar(select(table.message_id).where(table.message_id.in_(object_ids)).limit(1)) is not None
                for table in (MessageIns, MessageRes)
            )


def awaited(state: SqlLinkState, message_ids: Collection[str]) -> set[str]:
    """Those of the coordinator's messages whose reply is announced, but has objects that have not come yet."""
    incomplete = (
        select(MessageRes.reply_to_message_id)
        .join(ObjectPushSessionRoot, ObjectPushSessionRoot.root_object_id == MessageRes.message_id)
        .join(ObjectPushSession, ObjectPushSession.session_id == ObjectPushSessionRoot.session_id)
        .where(MessageRes.reply_to_message_id.in_(message_ids), ObjectPushSession.pending_count > 0)
    )
    with state.session() as session:
        return {message_id for message_id in session.scalars(incomplete) if message_id}


class WholeReplies(SqlLinkState):
    """Flower's database, where the coordinator sees a reply once all of its objects are there.

    Flower hands out a reply that is announced, and then waits for its objects: an institution that sends none would
    hold up the coordinator, which pulls one reply after the other, for three minutes and more.
    """

    def get_message_res(self, message_ids: set[str], run_id: int) -> list[Message]:
        """The replies to these messages that are whole."""
        with self.session():
            self._lock_run(run_id)  # no reply is announced between the two looks
            return super().get_message_res(message_ids - awaited(self, message_ids), run_id)
