"""Flower's own Simulation Runtime, and the state in memory through which its Grid and its virtual nodes meet."""

from flwr.common.constant import HEARTBEAT_INTERVAL_INF, PARTITION_ID_KEY
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.fleet.vce.metrics import VceMetrics
from flwr.server.superlink.fleet.vce.vce_api import start_vce
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState, RunRecord
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation import NoOpFederationManager

from shared.flower.store import LinkStateFactory

__all__ = [
    "FLWR_IN_MEMORY_DB_NAME",
    "HEARTBEAT_INTERVAL_INF",
    "NOOP_FEDERATION_ID",
    "PARTITION_ID_KEY",
    "InMemoryLinkState",
    "LinkStateFactory",
    "NoOpFederationManager",
    "ObjectStoreFactory",
    "RunRecord",
    "Task",
    "VceMetrics",
    "start_vce",
]
