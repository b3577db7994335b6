"""Requests over HTTP: the client of the Control interface, what an interceptor gets, the errors that come back."""

from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufClientInterceptor, ProtobufRequestContext

__all__ = [
    "API_ERROR_MAP",
    "ApiErrorCode",
    "ControlHttpClient",
    "FlowerError",
    "ProtobufCall",
    "ProtobufClientInterceptor",
    "ProtobufRequestContext",
]
