"""How a ServerApp reaches its nodes."""

from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.superlink.grid import HttpGrid, http_grid

__all__ = ["HttpGrid", "http_grid", "pull_objects"]
