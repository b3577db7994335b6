"""The SuperLink's database: its class, its tables, and how it writes unsigned numbers."""

from flwr.server.superlink.linkstate import sql_linkstate
from flwr.server.superlink.linkstate.linkstate_factory import LinkStateFactory
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.server.superlink.linkstate.utils import check_node_availability_for_in_message as check_node_availability
from flwr.supercore.inflatable.inflatable_object import UnexpectedObjectContentError
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.object_store import NoObjectInStoreError
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.state.schema.corestate_models import (
    ObjectPushSession,
    ObjectPushSessionPending,
    ObjectPushSessionRoot,
    Task,
)
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes, Node, Run
from flwr.supercore.state.schema.objectstore_models import ObjectChild, RunObject, StoredObject
from flwr.supercore.utils import int64_to_uint64, uint64_to_int64

__all__ = [
    "LinkStateFactory",
    "MessageIns",
    "MessageRes",
    "NoObjectInStoreError",
    "Node",
    "ObjectChild",
    "ObjectPushSession",
    "ObjectPushSessionPending",
    "ObjectPushSessionRoot",
    "Run",
    "RunObject",
    "SqlLinkState",
    "SqlObjectStore",
    "StoredObject",
    "Task",
    "UnexpectedObjectContentError",
    "check_node_availability",
    "int64_to_uint64",
    "sql_linkstate",
    "uint64_to_int64",
    "validate_object_content",
]
