"""`collegium server backup` and `restore`: all that a coordinator is, while it serves, in one file."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from server.home import ServerHome, open_home, read_settings
from shared.errors import ConfigError
from shared.upkeep.archive import Collected, pack, unpacked

KIND = "a coordinator"


def backup(folder: Path, target: Path, *, without_store: bool = False) -> Path:
    """Copy a coordinator's folder to a file: settings, secrets, both databases, and each checkpoint of a run.

    The databases are copied first. A checkpoint's file is written before its row, so each that the copy names is there.

    Args:
        folder: The coordinator's folder, whether it is served or not. Its logs are left out.
        target: The file to make, which whoever holds it can be the coordinator with.
        without_store: The store is at a URL of its own, and copied by that database's tools.

    Raises:
        ConfigError: The folder is none, the file exists or lies in the folder, or the store is elsewhere.
        StoreError, OSError: Something cannot be read or written.
    """
    home = open_home(folder)
    if target.resolve().is_relative_to(home.root.resolve()):
        raise ConfigError(
            f"Expected a file outside the folder that it is a copy of, but {target} is in {folder}; name another disk."
        )
    url = read_settings(home).store_url
    if url is not None and not without_store:
        shown = sa.make_url(url).render_as_string(hide_password=True)
        raise ConfigError(
            f"Expected the store in {home.state}, but it is {shown}; copy it by its own tool first, `pg_dump "
            "--format=custom` for PostgreSQL, and then run `collegium server backup --without-store`, "
            "whose checkpoints are then at least as new as the dump."
        )

    def collect(collected: Collected) -> Mapping[str, Any]:
        collected.add_folder("", home.root, but=[home.logs, home.checkpoints])
        if url is None:
            _add_checkpoints(collected, home)
        else:
            collected.add_folder("checkpoints", home.checkpoints)
        return {"store": url is None}

    return pack(target, collect, kind=KIND)


def _add_checkpoints(collected: Collected, home: ServerHome) -> None:
    copy = collected.files.get(f"{home.state.name}/collegium.db")
    if copy is None:  # it was never served
        return
    with closing(sqlite3.connect(copy)) as connection:
        rows = connection.execute("SELECT run, file FROM checkpoints ORDER BY run, round").fetchall()
    for run, file in rows:
        collected.add(f"{home.checkpoints.name}/{run}/{file}", home.checkpoints / run / file)


def restore(file: Path, folder: Path) -> Path:
    """Make a coordinator's folder of a backup, whole and verified or not at all.

    Args:
        file: What `backup` wrote.
        folder: The folder to make.

    Raises:
        ConfigError: The folder has something in it, or the file is no backup of a coordinator, or damaged.
        OSError: The disk refuses.
    """
    with unpacked(file, folder, kind=KIND) as (building, _):
        read_settings(open_home(building))
    return folder
