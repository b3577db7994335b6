"""Flower's SuperLink: the application, its configuration, its logs."""

from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.error import http_error_translator
from flwr.supercore.http_logging import get_uvicorn_log_config
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.servicer.fleet import fleet_handlers

__all__ = [
    "PROTOBUF_REQUEST_TYPES",
    "NoOpControlAuthnPlugin",
    "NodeAuthMiddleware",
    "SuperLinkLifespan",
    "SuperLinkLifespanConfig",
    "create_app",
    "fleet_handlers",
    "get_uvicorn_log_config",
    "http_error_translator",
    "load_superexec_auth_secret",
]
