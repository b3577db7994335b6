"""Numbers, headers and codes that Flower's processes agree on, and what each of them logs by."""

from flwr.common.constant import (
    HEARTBEAT_BASE_MULTIPLIER,
    HEARTBEAT_CALL_TIMEOUT,
    HEARTBEAT_DEFAULT_INTERVAL,
    HEARTBEAT_PATIENCE,
    ISOLATION_MODE_PROCESS,
    SUPERLINK_NODE_ID,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_HEADER,
    TIMESTAMP_TOLERANCE,
    TRANSPORT_TYPE_GRPC_RERE,
    ErrorCode,
    Status,
    SubStatus,
)
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    OBJECT_PUSH_SESSION_TTL_SECONDS,
    PULL_MAX_TIME,
    SUPEREXEC_AUTH_SIGNATURE_HEADER,
    NodeStatus,
    TaskType,
)
from flwr.supercore.logger import console_handler

__all__ = [
    "FLEET_HTTP_PUBLIC_KEY_HEADER",
    "FLEET_HTTP_SIGNATURE_HEADER",
    "HEARTBEAT_BASE_MULTIPLIER",
    "HEARTBEAT_CALL_TIMEOUT",
    "HEARTBEAT_DEFAULT_INTERVAL",
    "HEARTBEAT_PATIENCE",
    "ISOLATION_MODE_PROCESS",
    "OBJECT_PUSH_SESSION_TTL_SECONDS",
    "PULL_MAX_TIME",
    "SUPEREXEC_AUTH_SIGNATURE_HEADER",
    "SUPERLINK_NODE_ID",
    "SYSTEM_TIME_TOLERANCE",
    "TIMESTAMP_HEADER",
    "TIMESTAMP_TOLERANCE",
    "TRANSPORT_TYPE_GRPC_RERE",
    "ErrorCode",
    "NodeStatus",
    "Status",
    "SubStatus",
    "TaskType",
    "console_handler",
]
