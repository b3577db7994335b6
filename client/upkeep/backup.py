"""`collegium client backup` and `restore`: what an institution is, while its daemon runs, in one file.

That is its own file and those that it names, but for its data and the backbone: key, CA, federation file, state folder,
privacy ledger. Only the latest copy counts. A ledger that is older than the receipts is not restored at all; one that
is older than what the coordinator has heard of trains nothing from then on (`Ledger.open`).
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from client.agreement.approval import next_file
from client.institution import federations_of, load_institution
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
    names = federations_of(file)
    sites = [_Site(each) for each in ([file.with_name(f"{file.name}#{name}") for name in names] or [file])]
    for site in sites:
        if target.resolve().is_relative_to(site.state.resolve()):
            raise ConfigError(
                f"Expected a file outside {site.state}, which it is a copy of, not {target}; name another disk."
            )

    def collect(collected: Collected) -> Mapping[str, Any]:
        collected.add(file.name, file)
        for site in sites:
            site.add_to(collected)
        moved = {
            key: name for site in sites for key, name in site.names.items() if name.startswith(f"{ELSEWHERE}/{key}/")
        }
        books = [{"state": site.names["runtime.state"], "ledger": site.names["runtime.ledger"]} for site in sites]
        return {"name": sites[0].site.name, "books": books, "moved": moved}

    return pack(target, collect, kind=KIND)


class _Site:
    """What an institution keeps for one federation, or for its only one, and what that is called in the archive."""

    def __init__(self, file: Path) -> None:
        self.site = load_institution(file)
        self.state = self.site.runtime.state
        self.ledger = self.site.runtime.ledger or self.state / ledgers.FILE
        self.named = {
            "federation": self.site.federation,
            "server.ca": self.site.server.ca,
            "identity.key": self.site.identity.key,
            "runtime.state": self.state,
            "runtime.ledger": self.ledger,
        }
        folder = file.resolve().parent
        self.names = {key: _name(key, path, folder) for key, path in self.named.items()}
        if self.ledger.is_relative_to(self.state):
            within = self.ledger.relative_to(self.state).as_posix()
            self.names["runtime.ledger"] = f"{self.names['runtime.state']}/{within}"

    def add_to(self, collected: Collected) -> None:
        """Copy the receipts, then the ledger, then all else."""
        state, names, into = self.state, self.names, collected.folder / str(len(collected.files))
        into.mkdir()
        for copied in receipts.copy(state, into) if state.exists() else ():
            collected.add(f"{names['runtime.state']}/{copied.name}", copied)
        if self.ledger.exists() and names["runtime.ledger"] not in collected.files:  # several may share it
            collected.add_database(names["runtime.ledger"], self.ledger)
        collected.add_folder(names["runtime.state"], state, but=[state / "logs", self.ledger, *receipts.files(state)])
        for key in ("federation", "server.ca", "identity.key"):
            collected.add(names[key], self.named[key])
        private = self.named["identity.key"]
        for of, beside in (
            ("federation", next_file(self.site)),  # what takes the other's place before long
            ("identity.key", next_key(private)),
            ("identity.key", private.with_suffix(".pub")),
        ):
            if beside.exists():
                collected.add(str(PurePosixPath(names[of]).with_name(beside.name)), beside)


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
        for book in manifest["books"]:
            ledger, known = building / book["ledger"], receipts.heads(building / book["state"])
            if known or ledger.exists():
                ledgers.Ledger.open(ledger, known=known)
    return {key: folder.absolute() / name for key, name in manifest["moved"].items()}


def _name(key: str, path: Path, folder: Path) -> str:
    """What a file is called in the archive: as it lies below institution.toml's folder, or by its key."""
    path = path.resolve()
    if path.is_relative_to(folder):
        return path.relative_to(folder).as_posix()
    return f"{ELSEWHERE}/{key}/{path.name}"
