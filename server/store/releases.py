"""Bundles that were released, institutions that have withdrawn, and whose updates are in a state."""

from collections.abc import Mapping

import sqlalchemy as sa

from server.store.memory import Store, now
from server.store.schema import checkpoints, releases, withdrawals
from shared.errors import ConfigError, joined

Rounds = Mapping[str, list[int]]
"""By run, some of its rounds."""


def withdrawn(store: Store) -> dict[str, str]:
    """Institutions that have withdrawn, and when (UTC, ISO 8601)."""
    last = {row["institution"]: row for row in store.rows(withdrawals)}
    return {name: row["time"] for name, row in last.items() if row["withdrawn"]}


def add_withdrawal(store: Store, institution: str, *, withdrawn: bool) -> None:
    """Record that an institution withdraws, or that this was said in error."""
    store.insert(withdrawals, institution=institution, withdrawn=withdrawn, time=now())


def add_release(store: Store, run: str, round: int, release: str, folder: str) -> None:
    """Record that the state after a round was released to a folder."""
    store.insert(releases, run=run, round=round, release=release, folder=folder, time=now())


def ancestry(store: Store, run: str, round: int) -> list[tuple[str, int]]:
    """The runs that a state comes from, each with the round up to which it does; the first one of all first."""
    found = [(run, round)]
    while (row := store.run(found[0][0]))["parent"] is not None:
        found.insert(0, (str(row["parent"]), int(row["parent_round"])))
    return found


def contributions(store: Store, run: str, round: int) -> dict[str, dict[str, list[int]]]:
    """By institution, the rounds whose updates of it are in a state, by run; those with none are not there."""
    found: dict[str, dict[str, list[int]]] = {}
    for each, last in ancestry(store, run, round):
        for name, rounds in store.trained(each, before=last + 1).items():
            if rounds:
                found.setdefault(name, {})[each] = sorted(rounds)
    return found


def last_without(store: Store, run: str, round: int, institution: str) -> tuple[str, int]:
    """Of the states that a state comes from, the last that is still stored and has nothing of an institution.

    Raises:
        ConfigError: It has no part in that state, or no such checkpoint is stored any more.
    """
    for each, last in ancestry(store, run, round):
        taken = [number for number, _ in store.trained(each, before=last + 1).get(institution, {}).items()]
        if taken:
            rows = store.select(
                sa.select(checkpoints.c.round).where(checkpoints.c.run == each, checkpoints.c.round < min(taken))
            )
            stored = [row["round"] for row in rows]
            if not stored:
                raise ConfigError(
                    f"Expected a checkpoint of run {each} before round {min(taken)}, in which {institution} first took "
                    "part, but none is stored any more; start a new run."
                )
            return each, max(stored)
    runs = joined(each for each, _ in ancestry(store, run, round))
    raise ConfigError(
        f"Expected an institution whose updates are in run {run} up to round {round}, but {institution} has none in it "
        f"(runs {runs}); go on without --without."
    )
