"""The SuperLink's database: its class, its tables, and how it writes unsigned numbers."""

from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.state.schema.corestate_models import (
    ObjectPushSession,
    ObjectPushSessionPending,
    ObjectPushSessionRoot,
)
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes, Node
from flwr.supercore.state.schema.objectstore_models import ObjectChild
from flwr.supercore.utils import int64_to_uint64, uint64_to_int64

__all__ = [
    "MessageIns",
    "MessageRes",
    "Node",
    "ObjectChild",
    "ObjectPushSession",
    "ObjectPushSessionPending",
    "ObjectPushSessionRoot",
    "SqlLinkState",
    "int64_to_uint64",
    "uint64_to_int64",
]
