"""Flower's database, which tells those who wait that there is something for them, and hands it out whole."""

import math
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from flwr.app import Error, Message
from sqlalchemy import and_, bindparam, delete, exists, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from server.door.objects import Objects
from shared.enrolment.messages import GONE
from shared.flower.constants import OBJECT_PUSH_SESSION_TTL_SECONDS, SUPERLINK_NODE_ID, ErrorCode, NodeStatus
from shared.flower.messages import ObjectTree
from shared.flower.store import (
    LinkStateFactory,
    MessageIns,
    MessageRes,
    Node,
    ObjectPushSession,
    ObjectPushSessionPending,
    ObjectPushSessionRoot,
    Run,
    SqlLinkState,
    SqlObjectStore,
    StoredObject,
    Task,
    check_node_availability,
    int64_to_uint64,
    sql_linkstate,
    uint64_to_int64,
)
from shared.process.waiting import Bell

REPLIES = "replies"
"""What is rung for when a reply is there."""
LOST_SECONDS = 5.0
"""A node that asks again so long after a message was handed to it, and has not confirmed it, never got it."""

TRAFFIC_SECONDS = 1.0
CLEANUP_SECONDS = 1.0
"""A task is lost when nobody has heard of it for a minute."""


def _incomplete(message: Any) -> Any:
    """Whether objects of a message are on their way."""
    return exists(
        select(ObjectPushSessionRoot.session_id)
        .join(ObjectPushSession, ObjectPushSession.session_id == ObjectPushSessionRoot.session_id)
        .where(
            ObjectPushSessionRoot.root_object_id == message,
            ObjectPushSession.pending_count > 0,
            ObjectPushSession.expires_at > bindparam("moment"),
        )
    )


_FOR_NODE = and_(MessageIns.dst_node_id == bindparam("node"), MessageIns.created_at + MessageIns.ttl > bindparam("now"))
_LOST = and_(
    _FOR_NODE,
    MessageIns.delivered_at != "",
    MessageIns.delivered_at < bindparam("lost_before"),
    exists(select(StoredObject.object_id).where(StoredObject.object_id == MessageIns.message_id)),
    ~exists(select(MessageRes.message_id).where(MessageRes.reply_to_message_id == MessageIns.message_id)),
    exists(
        select(Run.run_id)
        .join(Task, Task.task_id == Run.primary_task_id)
        .where(Run.run_id == MessageIns.run_id, Task.finished_at.is_(None))
    ),
)
"""A node deletes a message's object when it confirms the message."""
_UNDELIVERED = and_(_FOR_NODE, MessageIns.delivered_at == "")
_HALF = select(MessageIns.message_id).where(_UNDELIVERED, _incomplete(MessageIns.message_id)).limit(1)
_WHOLE = (
    select(MessageIns.message_id).where(or_(and_(_UNDELIVERED, ~_incomplete(MessageIns.message_id)), _LOST)).limit(1)
)
_MAIL = select(_WHOLE.exists(), _HALF.exists()).where(
    Node.node_id == bindparam("node"), Node.status != NodeStatus.UNREGISTERED
)
_AGAIN = update(MessageIns).where(_LOST).values(delivered_at="")
_STATUS = (
    select(Node.status)
    .join(MessageIns, MessageIns.dst_node_id == Node.node_id)
    .where(MessageIns.message_id == bindparam("message"))
)
_ENROLLED = select(*Node.__table__.columns).where(
    Node.node_id == bindparam("node"), Node.public_key == bindparam("key"), Node.status != NodeStatus.UNREGISTERED
)
_ACTIVATED = select(Node.last_activated_at).where(Node.status == NodeStatus.OFFLINE)
_ROOTS = select(ObjectPushSessionRoot.root_object_id).where(ObjectPushSessionRoot.session_id == bindparam("session"))
_ADDRESSEES = select(MessageIns.dst_node_id).where(MessageIns.message_id.in_(bindparam("messages", expanding=True)))
_AWAITED_OBJECTS = (
    select(ObjectPushSessionPending.object_id)
    .join(ObjectPushSession, ObjectPushSession.session_id == ObjectPushSessionPending.session_id)
    .where(
        ObjectPushSession.session_id == bindparam("session"),
        ObjectPushSession.run_id == bindparam("run"),
        ObjectPushSession.expires_at > bindparam("moment"),
    )
)
_CAME = delete(ObjectPushSessionPending).where(
    ObjectPushSessionPending.session_id == bindparam("session"),
    ObjectPushSessionPending.object_id == bindparam("object"),
)
_FEWER = (
    update(ObjectPushSession)
    .where(ObjectPushSession.session_id == bindparam("session"))
    .values(pending_count=ObjectPushSession.pending_count - bindparam("came"), expires_at=bindparam("expires"))
)
_PENDING = select(ObjectPushSession.pending_count).where(ObjectPushSession.session_id == bindparam("session"))
_AWAITED = select(MessageRes.reply_to_message_id).where(
    MessageRes.reply_to_message_id.in_(bindparam("messages", expanding=True)),
    _incomplete(MessageRes.message_id),
)


class Deliveries(SqlLinkState):
    """Flower's, with some differences.

    A message is handed out, in either direction, when all of its objects are there: Flower hands out one that is
    announced, and whoever gets it asks for its objects until they come. An institution that sends none of a reply's
    would hold up the coordinator for three minutes and more.

    A message that a node was handed and did not get, because its connection ended, is handed to it again.

    A node that was cut off for longer than Flower waits for its heartbeat may still answer: its process works on.
    Flower puts an error in the place of its reply, even of one that is there; here that is so only of a node that was
    revoked. Nor is a heartbeat of such a node an activation, by which those who wait tell another process.

    The bell rings for a node when there is a message for it and when it is revoked, and for `REPLIES`, which those who
    wait for a revoked node hear as well. A node may get another key in the place of its own.

    How many bytes a run has moved, which Flower writes for every object, is written once a second.

    Transactions come one after the other. SQLite lets one write, and has the others sleep, up to 100 ms at a time: with
    many institutions at once nearly all of a round was such sleep. It looks for tasks that have expired once a second,
    which Flower does at every request.

    Args:
        factory: Whose database and stores are used.
        bell: To be rung.
    """

    def __init__(self, factory: LinkStateFactory, bell: Bell) -> None:
        store = factory.objectstore_factory.store()
        if isinstance(store, SqlObjectStore):
            store = factory.objectstore_factory.store_instance = Objects.of(store)
        super().__init__(factory.database, factory.federation_manager, store)
        self.bell = bell
        self.cut: Callable[[int], None] = lambda _: None
        """Ends a node's connections."""
        self._rekeyed: set[int] = set()
        """Nodes with a new key, of which nothing was heard yet."""
        self._threads = threading.local()
        self._turn = threading.RLock()
        self._cleaned = self._counted = -CLEANUP_SECONDS
        self._traffic: dict[int, Counter[str]] = {}
        """By run, what is to be added to its columns."""
        if isinstance(store, SqlObjectStore):
            store.session = self._in_turn(store.session)  # type: ignore[method-assign]
        self.session = self._in_turn(self.session)  # type: ignore[method-assign]

    def _in_turn(self, session: Callable[[], AbstractContextManager[Session]]) -> Any:
        @contextmanager
        def in_turn() -> Iterator[Session]:
            with self._turn, session() as mine:
                yield mine

        return in_turn

    def _cleanup_expired_task_tokens(self) -> None:
        if time.monotonic() - self._cleaned >= CLEANUP_SECONDS:
            self._cleaned = time.monotonic()
            super()._cleanup_expired_task_tokens()

    @contextmanager
    def together(self) -> Iterator[None]:
        """One transaction; who waits for what happens in it is told at its end."""
        self._threads.told = told = list[str]()
        try:
            with self.session():
                yield
        finally:
            del self._threads.told
        self._ring(told)

    def mail(self, node_id: int) -> bool | None:
        """Whether there is a message for a node; None if it is not enrolled, or not any more."""
        with self.session() as session:
            found = session.execute(_MAIL, _about(node_id)).first()
        return None if found is None else bool(found[0] and not found[1])

    def get_message_ins(self, node_id: int, limit: int | None, *, run_id: int | None = None) -> list[Message]:
        """The next messages for a node."""
        if node_id == SUPERLINK_NODE_ID:
            return super().get_message_ins(node_id, limit, run_id=run_id)
        with self.session() as session:
            session.execute(_AGAIN, _about(node_id), execution_options={"synchronize_session": False})
            if session.scalar(_HALF, _about(node_id)) is not None:
                return []
            return super().get_message_ins(node_id, limit, run_id=run_id)

    def get_message_res(self, message_ids: set[str], run_id: int) -> list[Message]:
        """The replies to these messages that are whole."""
        with self.session() as session:
            self._lock_run(run_id)  # no reply is announced between the two looks
            about = {"messages": list(message_ids), "moment": datetime.now(UTC)}
            incomplete = set(session.scalars(_AWAITED, about))
            return super().get_message_res(message_ids - incomplete, run_id)

    def store_message_and_object_tree(
        self, message: Message, object_tree: ObjectTree, session_id: str
    ) -> tuple[bool, list[str]]:
        """Store a message; its objects may all be there."""
        stored, missing = super().store_message_and_object_tree(message, object_tree, session_id)
        if stored and not missing:
            self._ring([message.metadata.message_id])
        return stored, missing

    def store_object(self, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        """Store an object; it may be the last one."""
        self._threads.whole = []
        stored = super().store_object(run_id, session_id, object_id, object_content)
        self._ring(self._threads.whole)  # now that others can see it
        return stored

    def store_objects(self, run_id: int, session_id: str, objects: Mapping[str, bytes]) -> Collection[str]:
        """Store the objects of an upload that are awaited, at once; their names.

        Args:
            run_id: Of the upload.
            session_id: Of the upload.
            objects: By their hashes, which the caller has computed.
        """
        moment = datetime.now(UTC)
        about = {"session": session_id, "run": uint64_to_int64(run_id), "moment": moment}
        with self.session() as session:
            awaited = set(session.scalars(_AWAITED_OBJECTS, about)) & objects.keys()
            if not awaited or not isinstance(self.object_store, Objects):
                return set()
            try:
                self.object_store.put_all({name: objects[name] for name in awaited})
            except ValueError:  # no object of Flower's
                return set()
            execute = session.connection().execute
            execute(_CAME, [{"session": session_id, "object": name} for name in awaited])
            expires = moment + timedelta(seconds=OBJECT_PUSH_SESSION_TTL_SECONDS)
            execute(_FEWER, {"session": session_id, "came": len(awaited), "expires": expires})
            if session.scalar(_PENDING, {"session": session_id}) == 0:
                self._threads.whole = []
                self._cleanup_push_session(session_id, cleanup_messages=False)
                self._ring(self._threads.whole)
        return awaited

    def delete_node(self, owner_aid: str, node_id: int) -> None:
        """Revoke a node: nothing of it is waited for any more, and its connections end."""
        super().delete_node(owner_aid, node_id)
        self._cut(node_id)

    def acknowledge_node_heartbeat(self, node_id: int, heartbeat_interval: float) -> bool:
        """Note that a node is there; by a heartbeat comes the process that was there before."""
        with self.session() as session:
            mine = Node.node_id == uint64_to_int64(node_id)
            offline = session.execute(_ACTIVATED.where(mine)).first()
            known = super().acknowledge_node_heartbeat(node_id, heartbeat_interval)
            if known and offline:
                session.execute(update(Node).where(mine).values(last_activated_at=offline[0]))
        return known

    def replace_key(self, node_id: int, old: bytes, new: bytes) -> bool:
        """Give a node another public key (PEM); whether the old one was its own, and the new one nobody's, ever.

        The old one stays as that of a node that was revoked, so that it is never enrolled again. The node may connect
        with the new one at once, and is waited for as long as for one whose heartbeat is late.
        """
        try:
            with self.session() as session:
                row = session.execute(_ENROLLED, {"node": uint64_to_int64(node_id), "key": old}).mappings().first()
                if row is None:
                    return False
                session.execute(update(Node).where(Node.node_id == row["node_id"]).values(public_key=new))
                grave = dict(row) | {
                    "node_id": uint64_to_int64(secrets.randbits(64)),
                    "status": NodeStatus.UNREGISTERED,
                    "unregistered_at": datetime.now(UTC).isoformat(),
                    "online_until": None,
                }
                session.execute(insert(Node).values(grave))
        except IntegrityError:
            return False
        self._rekeyed.add(node_id)
        self._cut(node_id)
        return True

    def activate_node(self, node_id: int, heartbeat_interval: float) -> bool:
        """Let a node in, unless its last process is still counted as online; that of an old key is not."""
        if node_id in self._rekeyed:
            self._rekeyed.discard(node_id)
            self.deactivate_node(node_id)
        return super().activate_node(node_id, heartbeat_interval)

    def _store_generated_message(self, message: Message) -> None:
        """Store what stands in the place of a reply; of a node that was revoked it says so, since it comes no more."""
        if message.has_error() and message.error.code == ErrorCode.NODE_UNAVAILABLE:
            with self.session() as session:
                status = session.scalar(_STATUS, {"message": message.metadata.reply_to_message_id})
            if status == NodeStatus.UNREGISTERED:
                message.error = Error(ErrorCode.NODE_UNAVAILABLE, GONE)
                message.metadata.__dict__["_message_id"] = message.object_id
        super()._store_generated_message(message)

    def _cut(self, node_id: int) -> None:
        self.bell.ring(node_id)
        self.bell.ring(REPLIES)
        self.cut(node_id)

    def store_traffic(self, run_id: int, *, bytes_sent: int, bytes_recv: int) -> None:
        """Count bytes of a run."""
        self._count(run_id, bytes_sent=bytes_sent, bytes_recv=bytes_recv)

    def add_clientapp_runtime(self, run_id: int, runtime: float) -> None:
        """Count seconds that institutions have worked for a run."""
        self._count(run_id, clientapp_runtime=runtime)

    def get_run_info(self, **which: Any) -> Any:
        """Runs, with what has been counted for them."""
        self._write_counts()
        return super().get_run_info(**which)

    def _count(self, run_id: int, **more: float) -> None:
        with self._turn:
            self._traffic.setdefault(run_id, Counter()).update(more)
            if time.monotonic() - self._counted >= TRAFFIC_SECONDS:
                self._write_counts()

    def _write_counts(self) -> None:
        with self._turn:
            if self._traffic:
                with self.session() as session:
                    for run_id, more in self._traffic.items():
                        columns = {name: getattr(Run, name) + value for name, value in more.items()}
                        session.execute(update(Run).where(Run.run_id == uint64_to_int64(run_id)).values(columns))
            self._counted, self._traffic = time.monotonic(), {}

    def _cleanup_push_session(self, session_id: str, *, cleanup_messages: bool) -> None:
        if not cleanup_messages and hasattr(self._threads, "whole"):
            with self.session() as session:
                self._threads.whole += session.scalars(_ROOTS, {"session": session_id})
        super()._cleanup_push_session(session_id, cleanup_messages=cleanup_messages)

    def _ring(self, messages: list[str]) -> None:
        if hasattr(self._threads, "told"):
            self._threads.told += messages
            return
        if not messages:
            return
        with self.session() as session:
            nodes = set(session.scalars(_ADDRESSEES, {"messages": messages}))
        for node in nodes:
            self.bell.ring(int64_to_uint64(cast(int, node)))
        if not nodes:  # then they are replies
            self.bell.ring(REPLIES)


def _tell_of_gone_nodes(*, node_id_to_online_until: Mapping[int, float], **about: Any) -> dict[str, Message]:
    """Flower's errors in the place of replies, but of nodes alone that are enrolled no more."""
    return check_node_availability(node_id_to_online_until=dict.fromkeys(node_id_to_online_until, math.inf), **about)


vars(sql_linkstate)["check_node_availability_for_in_message"] = _tell_of_gone_nodes


def _about(node_id: int) -> dict[str, Any]:
    moment = datetime.now(UTC)
    return {
        "node": uint64_to_int64(node_id),
        "now": moment.timestamp(),
        "moment": moment,
        "lost_before": (moment - timedelta(seconds=LOST_SECONDS)).isoformat(),
    }
