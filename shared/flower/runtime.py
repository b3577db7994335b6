"""The Runtime interface, by which tasks are acquired and answered: its client, `flwr-clientapp` and SuperExec."""

from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.runtime.tracing import RuntimeTracingInterceptor
from flwr.supercore.superexec import run_superexec
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.utils import disable_process_dumping
from flwr.supernode.runtime import run_clientapp
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

__all__ = [
    "ExecutionSpec",
    "LaunchResult",
    "RetryInvoker",
    "RuntimeHttpClient",
    "RuntimeTokenHttpInterceptor",
    "RuntimeTracingInterceptor",
    "RuntimeVersionHttpInterceptor",
    "SubprocessExecutor",
    "SuperExecAuthHttpInterceptor",
    "disable_process_dumping",
    "exponential",
    "load_superexec_auth_secret",
    "pull_and_inflate_object_from_tree",
    "pull_task_input",
    "push_message",
    "push_task_output",
    "run_clientapp",
    "run_superexec",
]
