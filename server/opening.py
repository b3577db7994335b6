"""From a coordinator's folder to its store."""

from pathlib import Path

from server.home import open_home, read_settings
from server.store import Store


def open_store(folder: Path) -> Store:
    """The store of a coordinator's folder."""
    home = open_home(folder)
    return Store.open(read_settings(home).store_url or home.default_store_url, checkpoints=home.checkpoints)
