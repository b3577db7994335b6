"""The Runtime interface, by which a SuperNode's tasks are acquired and answered: its client, and `flwr-clientapp`."""

from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.runtime.tracing import RuntimeTracingInterceptor
from flwr.supernode.runtime import run_clientapp
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

__all__ = [
    "RetryInvoker",
    "RuntimeHttpClient",
    "RuntimeTokenHttpInterceptor",
    "RuntimeTracingInterceptor",
    "RuntimeVersionHttpInterceptor",
    "SuperExecAuthHttpInterceptor",
    "exponential",
    "pull_and_inflate_object_from_tree",
    "pull_task_input",
    "push_message",
    "push_task_output",
    "run_clientapp",
]
