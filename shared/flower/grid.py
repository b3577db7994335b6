"""A ServerApp's process, and how it reaches its nodes."""

from flwr.common.args import add_args_flwr_app_common, try_obtain_flwr_app_token
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.logger import mirror_output_to_queue
from flwr.supercore.tls import validate_and_resolve_root_certificates
from flwr.superlink.grid import HttpGrid, http_grid
from flwr.superlink.runtime.run_serverapp import run_serverapp

__all__ = [
    "HttpGrid",
    "add_args_flwr_app_common",
    "http_grid",
    "mirror_output_to_queue",
    "pull_objects",
    "run_serverapp",
    "try_obtain_flwr_app_token",
    "validate_and_resolve_root_certificates",
]
