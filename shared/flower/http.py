"""Requests over HTTP: the client of the Control interface, and what an interceptor gets."""

from flwr.supercore.control import ControlHttpClient
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufClientInterceptor, ProtobufRequestContext

__all__ = ["ControlHttpClient", "ProtobufCall", "ProtobufClientInterceptor", "ProtobufRequestContext"]
