"""Institutions that withdraw: what is recorded, and the mark on the cards of releases that have their updates."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.home import ServerHome, open_home
from server.opening import open_store
from server.release.card import card
from server.release.key import signing_key
from server.release.lineage import withdrawals_of
from server.store import Store, releases, runs, withdrawn
from server.store.releases import add_withdrawal, contributions
from shared.bundle import load_metrics, seal, verify_bundle, write_told
from shared.bundle.keys import release_line
from shared.errors import CollegiumError, ConfigError, EnrolmentError, StoreError, listed
from shared.federation import load_federation


@dataclass(frozen=True)
class Withdrawal:
    """What a withdrawal has come to."""

    without: Mapping[str, int]
    """By run that has updates of the institution, the round from which on it has none."""
    marked: Sequence[Path]
    """Bundles whose cards say so now."""
    unmarked: Mapping[Path, str]
    """Bundles whose cards do not, and why."""


def withdraw(folder: Path, name: str, *, undo: bool = False, more: Sequence[Path] = ()) -> Withdrawal:
    """Record that an institution leaves, or that this was said in error, and mark the cards of earlier releases.

    A run that is under way goes on without it from its next round on. It may be said again, to mark further bundles.

    Args:
        folder: The coordinator's.
        name: The institution.
        undo: Take back what was recorded, and the marks.
        more: Bundles to mark that lie elsewhere than where they were released to.

    Raises:
        EnrolmentError: No agreement knows the institution.
        ConfigError: It has not withdrawn, and that is to be taken back.
        StoreError: The store cannot be written.
    """
    home = open_home(folder)
    key = signing_key(home)
    with open_store(folder) as store:
        _check_known(home, store, name)
        if undo and name not in withdrawn(store):
            raise ConfigError(f"Expected an institution that has withdrawn, but {name} has not.")
        if undo or name not in withdrawn(store):
            add_withdrawal(store, name, withdrawn=not undo)
        mine = [row for row in store.rows(releases) if name in contributions(store, row["run"], row["round"])]
        marked, unmarked = [], {}
        for bundle in dict.fromkeys([*(Path(row["folder"]) for row in mine), *(each.resolve() for each in more)]):
            try:
                mark(store, bundle, key)
                marked.append(bundle)
            except CollegiumError as error:
                unmarked[bundle] = str(error)
        return Withdrawal(_without(store, name), marked, unmarked)


def mark(store: Store, folder: Path, key: Ed25519PrivateKey) -> None:
    """Write the card of a release again, with who has withdrawn as the store knows it, and sign it again.

    Raises:
        BundleError: The bundle is gone, or not as this coordinator has signed it.
        ConfigError: The store does not know its run.
        StoreError: The disk refuses; the bundle is as it was.
    """
    found = verify_bundle(folder, release_line(key.public_key()))
    metrics = load_metrics(folder)
    named = {consent.name for consent in found.consents}
    metrics["withdrawn"] = [
        one if one["institution"] in named else {**one, "institution": None}
        for one in withdrawals_of(store, metrics["run"], metrics["best_round"])
    ]
    building, old = (folder.with_name(f".{folder.name}.{end}") for end in ("part", "old"))
    try:
        for each in (building, old):
            shutil.rmtree(each, ignore_errors=True)
        shutil.copytree(folder, building)
        write_told(building, found.federation, metrics["tasks"], metrics, card(found.federation, metrics))
        seal(building, key)
        folder.rename(old)
        building.rename(folder)
    except OSError as error:
        if not folder.exists() and old.exists():
            old.rename(folder)
        raise StoreError(
            f"Could not write the card of {folder} ({error.strerror}); make room, and do it again."
        ) from None
    finally:
        for each in (building, old):
            shutil.rmtree(each, ignore_errors=True)


def _check_known(home: ServerHome, store: Store, name: str) -> None:
    known = set(load_federation(home.federation_file).rounds.institutions)
    for row in store.rows(runs):
        known |= set(store.agreement(row["run"]).rounds.institutions)
    if name not in known:
        raise EnrolmentError(f"Expected an institution of an agreement, {listed(sorted(known))}, but it is {name!r}.")


def _without(store: Store, name: str) -> dict[str, int]:
    """By run that an institution took part in, the round after the last one in which it did."""
    found = {}
    for row in store.rows(runs):
        last = store.last_round(row["run"])
        taken = store.trained(row["run"], before=(last or 0) + 1).get(name)
        if taken:
            found[str(row["run"])] = max(taken) + 1
    return found
