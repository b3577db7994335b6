"""How Flower packs a run's bundle of code; loads all that its command needs."""

from flwr.cli.build import build_fab_from_files

__all__ = ["build_fab_from_files"]
