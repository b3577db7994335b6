"""What Collegium expects of Flower's private parts: an upgrade of flwr that changes one of them fails here first."""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pytest

import shared.flower


@dataclass(frozen=True)
class Takes:
    """A function or class that is called with these parameters, and needs no others."""

    parameters: str = ""

    def misses(self, found: Any) -> str:
        expected = self.parameters.split()
        has = inspect.signature(found).parameters
        absent = [name for name in expected if name not in has]
        needed = [
            name
            for name, parameter in has.items()
            if name not in expected
            and parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
        return f"lacks {absent}, needs {needed} too: {inspect.signature(found)}" if absent or needed else ""


@dataclass(frozen=True)
class Has:
    """A module, class, message or table with these attributes, fields or columns."""

    names: str

    def misses(self, found: Any) -> str:
        fields = getattr(getattr(found, "DESCRIPTOR", None), "fields_by_name", {})  # of a protobuf message
        absent = [name for name in self.names.split() if name not in fields and not hasattr(found, name)]
        return f"lacks {absent}" if absent else ""


@dataclass(frozen=True)
class Both:
    """A class that is made with these parameters, and has these methods."""

    takes: str
    has: str

    def misses(self, found: Any) -> str:
        return Takes(self.takes).misses(found) or Has(self.has).misses(found)


MESSAGE_COLUMNS = "message_id dst_node_id src_node_id run_id reply_to_message_id message_type group_id delivered_at"
EXPECTED: Mapping[str, Mapping[str, Any]] = {
    "bundle": {"build_fab_from_files": Takes("files")},
    "constants": {
        "FLEET_HTTP_PUBLIC_KEY_HEADER": "flwr-public-key",
        "FLEET_HTTP_SIGNATURE_HEADER": "flwr-signature",
        "HEARTBEAT_BASE_MULTIPLIER": 0.8,
        "HEARTBEAT_CALL_TIMEOUT": 5,
        "HEARTBEAT_DEFAULT_INTERVAL": 30,
        "HEARTBEAT_PATIENCE": 2,
        "ISOLATION_MODE_PROCESS": "process",
        "OBJECT_PUSH_SESSION_TTL_SECONDS": 180,
        "PULL_MAX_TIME": 7200,
        "SUPEREXEC_AUTH_SIGNATURE_HEADER": "flwr-superexec-signature",
        "SUPERLINK_NODE_ID": 1,
        "SYSTEM_TIME_TOLERANCE": 5,
        "TIMESTAMP_HEADER": "flwr-timestamp",
        "TIMESTAMP_TOLERANCE": 300,
        "TRANSPORT_TYPE_GRPC_RERE": "grpc-rere",
        "ErrorCode": Has(
            "MESSAGE_UNAVAILABLE REPLY_MESSAGE_UNAVAILABLE NODE_UNAVAILABLE CLIENT_APP_RAISED_EXCEPTION",
        ),
        "NodeStatus": Has("ONLINE UNREGISTERED"),
        "Status": Has("PENDING"),
        "SubStatus": Has("COMPLETED FAILED"),
        "TaskType": Has("CLIENT_APP SERVER_APP"),
        "console_handler": Has("setFormatter colored level"),
    },
    "crypto": {
        "bytes_to_public_key": Takes("public_key_bytes"),
        "combine_shares": Takes("share_list"),
        "create_shares": Takes("secret threshold num"),
        "decrypt": Takes("key ciphertext"),
        "encrypt": Takes("key plaintext"),
        "generate_key_pairs": Takes(),
        "public_key_to_bytes": Takes("public_key"),
        "share_keys_plaintext_concat": Takes("src_node_id dst_node_id b_share sk_share"),
        "share_keys_plaintext_separate": Takes("plaintext"),
        "verify_signature": Takes("public_key message signature"),
    },
    "errors": {
        "API_ERROR_MAP": Has("keys"),
        "ApiErrorCode": Has(
            "FLEET_NODE_ACTIVATION_FAILED PUBLIC_KEY_ALREADY_IN_USE PUBLIC_KEY_NOT_VALID NODE_NOT_FOUND "
            "RUN_ID_NOT_FOUND RUN_ALREADY_FINISHED INVALID_RUN_CONFIG"
        ),
        "FlowerError": Both("code message", "to_json from_json"),
    },
    "grid": {
        "HttpGrid": Both(
            "runtime_api_address root_certificates token", "set_run push_messages pull_messages get_nodes"
        ),
        "add_args_flwr_app_common": Takes("parser include_token_stdin"),
        "http_grid": Has("pull_objects"),
        "mirror_output_to_queue": Takes("log_queue"),
        "pull_objects": Takes("object_ids pull_object_fn max_time initial_backoff backoff_cap"),
        "run_serverapp": Takes("runtime_api_address log_queue token insecure certificates parent_pid"),
        "try_obtain_flwr_app_token": Takes("args"),
        "validate_and_resolve_root_certificates": Takes("root_cert_path insecure"),
    },
    "http": {
        "ControlHttpClient": Both(
            "base_url interceptors verify timeout",
            "ListNodes ListRuns RegisterNode UnregisterNode StartRun StopRun StreamLogs close",
        ),
        "ProtobufCall": Has("__args__"),
        "ProtobufClientInterceptor": Has("intercept"),
        "ProtobufRequestContext": Takes("rpc_method message request"),
    },
    "messages": {
        "AcquireTaskRequest": Has("supported_task_types"),
        "AcquireTaskResponse": Has("task token"),
        "ActivateNodeRequest": Has("public_key heartbeat_interval"),
        "ConfirmMessageReceivedRequest": Has("node run_id message_object_id"),
        "ConfirmMessageReceivedResponse": Has("SerializeToString"),
        "DeactivateNodeRequest": Has("node_id"),
        "Fab": Takes("hash_str content verifications"),
        "GetFabRequest": Has("node hash_str run_id"),
        "GetRunRequest": Has("node run_id"),
        "ListNodesRequest": Has("SerializeToString"),
        "ListRunsRequest": Has("run_id"),
        "MessageProto": Has("metadata content error"),
        "Node": Has("node_id"),
        "NodeInfo": Has("node_id name status public_key online_until heartbeat_interval"),
        "ObjectTree": Has("object_id children"),
        "PullAppMessagesRequest": Has("message_ids"),
        "PullAppMessagesResponse": Has("messages_list message_object_trees"),
        "PullMessagesRequest": Has("node"),
        "PullMessagesResponse": Has("messages_list message_object_trees"),
        "PullObjectRequest": Has("node run_id object_id"),
        "PullObjectResponse": Has("object_found object_available object_content"),
        "PullTaskInputRequest": Has("SerializeToString"),
        "PushAppMessagesRequest": Has("messages_list message_object_trees"),
        "PushAppMessagesResponse": Has("objects_to_push session_id"),
        "PushMessagesRequest": Has("node messages_list message_object_trees clientapp_runtime_list"),
        "PushMessagesResponse": Has("objects_to_push session_id"),
        "PushObjectRequest": Has("node run_id session_id object_id object_content"),
        "PushObjectResponse": Has("stored"),
        "PushTaskOutputRequest": Has("sub_status details"),
        "RegisterNodeRequest": Has("public_key name"),
        "Run": Has("create_empty"),
        "RunNotRunningException": Has("__cause__"),
        "SendNodeHeartbeatRequest": Has("node heartbeat_interval"),
        "SendTaskHeartbeatRequest": Has("SerializeToString"),
        "StartRunRequest": Has("fab override_config"),
        "StopRunRequest": Has("run_id"),
        "StreamLogsRequest": Has("run_id after_timestamp"),
        "TaskIdentity": Has("_task_id _run_id _node_id"),
        "UnregisterNodeFleetRequest": Has("node_id"),
        "UnregisterNodeRequest": Has("node_id"),
        "fab_to_proto": Takes("fab"),
        "get_all_nested_objects": Takes("obj"),
        "get_object_tree": Takes("obj"),
        "is_valid_sha256_hash": Takes("object_id"),
        "iterate_object_tree": Takes("tree"),
        "message_from_proto": Takes("message_proto"),
        "message_to_proto": Takes("message"),
        "no_object_id_recompute": Takes(),
        "run_from_proto": Takes("run_proto"),
        "user_config_to_proto": Takes("user_config"),
    },
    "runtime": {
        "ExecutionSpec": Takes(
            "task_type runtime_api_address token insecure root_certificates_path runtime_dependency_install parent_pid "
            "suppress_output task_id"
        ),
        "LaunchResult": Has("accepted failed"),
        "RetryInvoker": Takes("wait_gen_factory recoverable_exceptions max_tries max_time should_giveup wait_function"),
        "RuntimeHttpClient": Both(
            "base_url interceptors verify timeout retry_invoker",
            "from_server_address AcquireTask SendTaskHeartbeat PullTaskInput PushTaskOutput close",
        ),
        "RuntimeTokenHttpInterceptor": Takes("token"),
        "RuntimeTracingInterceptor": Takes(),
        "RuntimeVersionHttpInterceptor": Takes("component_name"),
        "SuperExecAuthHttpInterceptor": Takes("master_secret protected_methods"),
        "SubprocessExecutor": Both("", "launch"),
        "disable_process_dumping": Takes("strict"),
        "exponential": Takes("base_delay max_delay"),
        "load_superexec_auth_secret": Takes("secret_file"),
        "pull_and_inflate_object_from_tree": Takes(
            "object_tree pull_object_fn confirm_object_received_fn initial_backoff backoff_cap"
        ),
        "pull_task_input": Takes("client"),
        "push_message": Takes("client message context"),
        "push_task_output": Takes("client context sub_status details"),
        "run_clientapp": Has("pull_and_inflate_object_from_tree"),
        "run_superexec": Has("run_superexec get_executor"),
    },
    "simulation": {
        "FLWR_IN_MEMORY_DB_NAME": ":flwr-in-memory:",
        "HEARTBEAT_INTERVAL_INF": 1e300,
        "InMemoryLinkState": Has("create_node store_message_ins get_message_res delete_messages"),
        "LinkStateFactory": Both("database federation_manager objectstore_factory", "state"),
        "NOOP_FEDERATION_ID": "@none/default",
        "NoOpFederationManager": Takes(),
        "ObjectStoreFactory": Takes(),
        "PARTITION_ID_KEY": "partition-id",
        "RunRecord": Takes("run"),
        "Task": Has("task_id run_id"),
        "VceMetrics": Takes(),
        "start_vce": Takes(
            "backend_name backend_config_json_stream app_dir is_app f_stop run metrics client_app state_factory "
            "existing_nodes_mapping"
        ),
    },
    "store": {
        "LinkStateFactory": Has("state"),
        "MessageIns": Has(MESSAGE_COLUMNS),
        "MessageRes": Has(MESSAGE_COLUMNS),
        "Node": Has("node_id public_key status online_until last_activated_at"),
        "ObjectChild": Has("parent_id child_id"),
        "NoObjectInStoreError": Takes("message"),
        "ObjectPushSession": Has("session_id run_id pending_count expires_at"),
        "ObjectPushSessionPending": Has("session_id object_id"),
        "ObjectPushSessionRoot": Has("session_id root_object_id"),
        "Run": Has("run_id primary_task_id bytes_sent bytes_recv clientapp_runtime"),
        "RunObject": Has("run_id object_id"),
        "SqlLinkState": Both(
            "database_path federation_manager object_store",
            "session get_message_res get_message_ins store_message_and_object_tree store_object delete_node "
            "_cleanup_push_session _cleanup_expired_task_tokens _lock_run get_node_id_by_public_key initialize "
            "object_store",
        ),
        "SqlObjectStore": Both(
            "database_path verify", "session _mutation_session preregister get_object_tree put get delete"
        ),
        "check_node_availability": Takes(
            "inquired_in_message_ids found_in_message_dict node_id_to_online_until current_time update_set"
        ),
        "sql_linkstate": Has("check_node_availability_for_in_message"),
        "StoredObject": Has("object_id content is_available ref_count"),
        "Task": Has("task_id starting_at finished_at"),
        "UnexpectedObjectContentError": Takes("object_id reason"),
        "int64_to_uint64": Takes("signed"),
        "uint64_to_int64": Takes("unsigned"),
        "validate_object_content": Takes("content"),
    },
    "superlink": {
        "PROTOBUF_REQUEST_TYPES": Has("keys"),
        "NoOpControlAuthnPlugin": Takes(),
        "NodeAuthMiddleware": Takes("app"),
        "SuperLinkLifespan": Takes("config state_factory"),
        "SuperLinkLifespanConfig": Takes(
            "control_address health_server_address host port insecure certificates superexec_auth_secret authn_plugin "
            "event_log_plugin fleet_event_log_plugin enable_event_log artifact_provider enable_supernode_auth "
            "fleet_api_type fleet_api_address simulation ssl_ca_certfile ssl_certfile ssl_keyfile database isolation "
            "runtime_dependency_install"
        ),
        "create_app": Takes("config superlink_lifespan_class"),
        "fleet_handlers": Has(
            "activate_node deactivate_node send_node_heartbeat pull_messages push_messages get_run get_fab push_object "
            "pull_object confirm_message_received"
        ),
        "get_uvicorn_log_config": Takes("log_level"),
        "http_error_translator": Takes("request call_next"),
        "load_superexec_auth_secret": Takes("secret_file"),
    },
    "supernode": {
        "ActivateNodeResponse": Has("node_id"),
        "DeactivateNodeRequest": Has("node_id"),
        "InMemoryNodeState": Has("_cleanup_expired_task_tokens_locked get_message_processing_duration"),
        "NodeAuthHttpInterceptor": Both("private_key public_key", "intercept"),
        "NodeStateFactory": Both("objectstore_factory", "state"),
        "exponential": Takes("max_delay"),
        "add_exit_handler": Takes("exit_handler run_before_force_exit"),
        "fleet_http_connection": Has("NodeAuthHttpInterceptor"),
        "flower_supernode": Takes(),
        "heartbeat": Has("exponential HeartbeatSender"),
        "http_retry": Has("MAX_RETRY_DELAY exponential make_simple_http_retry_invoker"),
        "start_client_internal": Has("time pull_objects"),
        "supernode_main": Has("FastAPI create_app"),
    },
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in EXPECTED.items() for name in names])
def test_flower_has_what_collegium_uses(module: str, name: str) -> None:
    expected, found = EXPECTED[module][name], getattr(importlib.import_module(f"shared.flower.{module}"), name)
    if isinstance(expected, Takes | Has | Both):
        problem = expected.misses(found)
    else:
        problem = "" if found == expected else f"is {found!r}, not {expected!r}"
    assert not problem, f"flwr {version('flwr')}: {found.__class__.__name__} {name} of shared.flower.{module} {problem}"


def test_each_name_is_looked_at() -> None:
    modules = {found.name for found in pkgutil.iter_modules(shared.flower.__path__)}
    names = {module: set(importlib.import_module(f"shared.flower.{module}").__all__) for module in modules}
    assert names == {module: set(expected) for module, expected in EXPECTED.items()}
