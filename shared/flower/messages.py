"""What Flower's processes say to each other: protobuf messages, what turns Flower's objects into them, and runs."""

from flwr.common.serde import fab_to_proto, message_from_proto, message_to_proto, run_from_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    StreamLogsRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
    UnregisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.node_pb2 import Node, NodeInfo
from flwr.proto.run_pb2 import GetRunRequest
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    AcquireTaskResponse,
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PullTaskInputRequest,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    is_valid_sha256_hash,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "AcquireTaskRequest",
    "AcquireTaskResponse",
    "ActivateNodeRequest",
    "ConfirmMessageReceivedRequest",
    "ConfirmMessageReceivedResponse",
    "DeactivateNodeRequest",
    "Fab",
    "GetFabRequest",
    "GetRunRequest",
    "ListNodesRequest",
    "ListRunsRequest",
    "MessageProto",
    "Node",
    "NodeInfo",
    "ObjectTree",
    "PullAppMessagesRequest",
    "PullAppMessagesResponse",
    "PullMessagesRequest",
    "PullMessagesResponse",
    "PullObjectRequest",
    "PullObjectResponse",
    "PullTaskInputRequest",
    "PushAppMessagesRequest",
    "PushAppMessagesResponse",
    "PushMessagesRequest",
    "PushMessagesResponse",
    "PushObjectRequest",
    "PushObjectResponse",
    "PushTaskOutputRequest",
    "RegisterNodeRequest",
    "Run",
    "RunNotRunningException",
    "SendNodeHeartbeatRequest",
    "SendTaskHeartbeatRequest",
    "StartRunRequest",
    "StopRunRequest",
    "StreamLogsRequest",
    "TaskIdentity",
    "UnregisterNodeFleetRequest",
    "UnregisterNodeRequest",
    "fab_to_proto",
    "get_all_nested_objects",
    "get_object_tree",
    "is_valid_sha256_hash",
    "iterate_object_tree",
    "message_from_proto",
    "message_to_proto",
    "no_object_id_recompute",
    "run_from_proto",
    "user_config_to_proto",
]
