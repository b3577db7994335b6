"""`collegium client backup` and `restore`: what an institution is, while its daemon runs, in one file.

That is its own file and those that it names, but for its data and the backbone: key, CA, federation file, state folder,
privacy ledger. Only the latest copy counts. A ledger that is older than the receipts is not restored at all; one that
is older than what the coordinator has heard of trains nothing from then on (`Ledger.open`).
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from client.agreement.approval import next_file
from client.institution import load_institution
from client.keys import next_key
from client.leaving import receipts
from client.privacy import ledger as ledgers
from shared.errors import ConfigError
from shared.upkeep.archive import Collected, pack, unpacked

KIND = "an institution"
ELSEWHERE = "elsewhere"
"""Folder of an archive for what does not lie beside institution.toml."""


def backup(file: Path, target: Path) -> Path:
    """Copy what an institution keeps to a file, which whoever holds it can pass for the institution with.

    The receipts are copied before the ledger: each of them names an entry that is in it by then.

    Args:
        file: The institution's institution.toml.
        target: The file to make.

    Raises:
        ConfigError: institution.toml is wrong, or the target exists or lies in the state folder.
        StoreError, OSError: Something cannot be read or written.
    """
    site = load_institution(file)
    folder, state = file.resolve().parent, site.runtime.state
    if target.resolve().is_relative_to(state.resolve()):
        raise ConfigError(f"Expected a file outside {state}, which it is a copy of, not {target}; name another disk.")
    ledger = site.runtime.ledger or state / ledgers.FILE
    named = {
        "federation": site.federation,
        "server.ca": site.server.ca,
        "identity.key": site.identity.key,
        "runtime.state": state,
        "runtime.ledger": ledger,
    }
    names = {key: _name(key, path, folder) for key, path in named.items()}
    if ledger.is_relative_to(state):
        names["runtime.ledger"] = f"{names['runtime.state']}/{ledger.relative_to(state).as_posix()}"

    def collect(collected: Collected) -> Mapping[str, Any]:
        for copied in receipts.copy(state, collected.folder) if state.exists() else ():
            collected.add(f"{names['runtime.state']}/{copied.name}", copied)
        if ledger.exists():
            collected.add_database(names["runtime.ledger"], ledger)
        collected.add_folder(names["runtime.state"], state, but=[state / "logs", ledger, *receipts.files(state)])
        collected.add(file.name, file)
        for key in ("federation", "server.ca", "identity.key"):
            collected.add(names[key], named[key])
        private = site.identity.key
        for of, beside in (("federation", next_file(site)), ("identity.key", next_key(private))):
            if beside.exists():  # what takes the other's place before long
                collected.add(str(PurePosixPath(names[of]).with_name(beside.name)), beside)
        if (public := private.with_suffix(".pub")).exists():
            collected.add(str(PurePosixPath(names["identity.key"]).with_name(public.name)), public)
        moved = {key: name for key, name in names.items() if name.startswith(f"{ELSEWHERE}/{key}/")}
        return {"name": site.name, "state": names["runtime.state"], "ledger": names["runtime.ledger"], "moved": moved}

    return pack(target, collect, kind=KIND)


def restore(file: Path, folder: Path) -> Mapping[str, Path]:
    """Make an institution's folder of a backup, whole and verified or not at all.

    Args:
        file: What `backup` wrote.
        folder: The folder to make.

    Returns:
        Keys of institution.toml whose files lay elsewhere, and where they are now: its owner has to set them.

    Raises:
        ConfigError: The folder has something in it, or the file is no backup of an institution, or damaged.
        BudgetError: The privacy ledger in it is older than the receipts.
        StoreError, OSError: The receipts cannot be read, or the disk refuses.
    """
    with unpacked(file, folder, kind=KIND) as (building, manifest):
        known = receipts.heads(building / manifest["state"])
        if known or (building / manifest["ledger"]).exists():
            ledgers.Ledger.open(building / manifest["ledger"], known=known)
    return {key: folder.absolute() / name for key, name in manifest["moved"].items()}


def _name(key: str, path: Path, folder: Path) -> str:
    """What a file is called in the archive: as it lies below institution.toml's folder, or by its key."""
    path = path.resolve()
    if path.is_relative_to(folder):
        return path.relative_to(folder).as_posix()
    return f"{ELSEWHERE}/{key}/{path.name}"
