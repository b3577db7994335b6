"""Errors that come back over HTTP. With them Flower loads FastAPI, which who only asks can do without."""

from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.error.catalog import API_ERROR_MAP

__all__ = ["API_ERROR_MAP", "ApiErrorCode", "FlowerError"]
