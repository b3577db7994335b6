"""Flower's SuperNode: the modules and functions of its process, and what signs its requests."""

from flwr.proto.fleet_pb2 import ActivateNodeResponse, DeactivateNodeRequest
from flwr.supercore import heartbeat
from flwr.supercore.exit import add_exit_handler
from flwr.supercore.retry import exponential, http_retry
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode import main as supernode_main
from flwr.supernode.cli.flower_supernode import flower_supernode
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from flwr.supernode.nodestate import NodeStateFactory
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

__all__ = [
    "ActivateNodeResponse",
    "DeactivateNodeRequest",
    "InMemoryNodeState",
    "NodeAuthHttpInterceptor",
    "NodeStateFactory",
    "add_exit_handler",
    "exponential",
    "fleet_http_connection",
    "flower_supernode",
    "heartbeat",
    "http_retry",
    "start_client_internal",
    "supernode_main",
]
