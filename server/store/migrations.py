"""How an older store becomes one of today: numbered steps, applied in order and in one transaction when it is opened.

The number of a store is the highest in its table `schema_version`. A step is a plain function here, frozen when it has
landed: it never looks at `schema.py`, which goes on changing. alembic would do the same with a folder of scripts and a
table of revisions of its own, beside the number that stores have had from the beginning.
"""

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from server.store.schema import SCHEMA_VERSION, metadata, schema
from shared.errors import StoreError

LOCK = 7_310_579
"""PostgreSQL's name for the lock under which one process at a time brings a store up to date."""


def is_current(connection: sa.Connection) -> bool:
    """Whether nothing is left to do. Raises StoreError if a later release of Collegium made the store."""
    found = version_of(connection)
    if found > SCHEMA_VERSION:
        raise StoreError(
            f"Expected a store of version {SCHEMA_VERSION} or earlier, but it is of version {found}; "
            "install the release of Collegium that made it."
        )
    return found == SCHEMA_VERSION


def bring_up_to_date(connection: sa.Connection) -> None:
    """Make the tables of an empty database, or apply the steps that an older one lacks; all or nothing.

    Args:
        connection: In a transaction that nobody else can write in; on SQLite it began with BEGIN IMMEDIATE.

    Raises:
        StoreError: A later release of Collegium made the store.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
    if is_current(connection):  # another process has been here meanwhile
        return
    found = version_of(connection)
    if found:
        for number in range(found + 1, SCHEMA_VERSION + 1):
            STEPS[number](connection)
    else:
        metadata.create_all(connection)
    schema.create(connection, checkfirst=True)
    connection.execute(sa.insert(schema).values(version=SCHEMA_VERSION))


def version_of(connection: sa.Connection) -> int:
    """Of the store; 0 for an empty database."""
    there = sa.inspect(connection).get_table_names()
    numbered = connection.scalar(sa.select(sa.func.max(schema.c.version))) if schema.name in there else None
    return numbered or int("runs" in there)  # the first stores of all had no number


def _keep_kinds_of_refusals(connection: sa.Connection) -> None:
    """To version 2: `replies.refusal` holds what was the first word of a refusal's reason.

    Stores of version 1 lack what came later without a number of its own: four tables and four columns.
    """
    for table in _LATER_TABLES:
        table.create(connection, checkfirst=True)
    for name, columns in _LATER_COLUMNS.items():
        there = {column["name"] for column in sa.inspect(connection).get_columns(name)}
        for column, kind in columns.items():
            if column not in there:
                connection.execute(sa.text(f"ALTER TABLE {name} ADD COLUMN {column} {kind}"))
    replies = sa.table("replies", *map(sa.column, ("id", "status", "reason", "refusal")))
    for kind in ("agreement", "data", "request", "failure", "policy", "budget", "held"):
        told = f"{kind}: "
        mine = (replies.c.status == "refused") & replies.c.reason.startswith(told)
        reason = sa.func.substr(replies.c.reason, len(told) + 1)
        connection.execute(sa.update(replies).where(mine).values(refusal=kind, reason=reason))


def _queue_runs(connection: sa.Connection) -> None:
    """To version 3: how often a run was started, how often without a round since, and whether it is to pause."""
    no = "0" if connection.dialect.name == "sqlite" else "false"
    for column, kind in (("attempt", "INTEGER"), ("tries", "INTEGER"), ("pausing", "BOOLEAN")):
        default = no if kind == "BOOLEAN" else "0"
        connection.execute(sa.text(f"ALTER TABLE runs ADD COLUMN {column} {kind} NOT NULL DEFAULT {default}"))


def _remember_parents(connection: sa.Connection) -> None:
    """To version 4: the run and the round from whose state a run began."""
    for column, kind in (("parent", "VARCHAR(32)"), ("parent_round", "INTEGER")):
        connection.execute(sa.text(f"ALTER TABLE runs ADD COLUMN {column} {kind}"))


def _tell_the_time(connection: sa.Connection) -> None:
    """To version 5: when an event was, whom a run asks at present until when, and what an institution has installed."""
    later = (("events", "time", "VARCHAR(32)"), ("runs", "asking", "JSON"), ("replies", "software", "VARCHAR(64)"))
    for table, column, kind in later:
        connection.execute(sa.text(f"ALTER TABLE {table} ADD COLUMN {column} {kind}"))


def _remember_releases(connection: sa.Connection) -> None:
    """To version 6: bundles that were released, and institutions that have withdrawn."""
    for table in _RELEASE_TABLES:
        table.create(connection)


STEPS: Mapping[int, Callable[[sa.Connection], None]] = {
    2: _keep_kinds_of_refusals,
    3: _queue_runs,
    4: _remember_parents,
    5: _tell_the_time,
    6: _remember_releases,
}
"""What makes a store one of each version, out of one of the version before."""

_LATER_COLUMNS = {
    "rounds": {"participants": "INTEGER", "norm": "FLOAT"},
    "replies": {"examples": "JSON", "losses": "JSON", "refusal": "VARCHAR(16)"},
}
_version_1 = sa.MetaData()
sa.Table("runs", _version_1, sa.Column("run", sa.String(32), primary_key=True))


def _later_table(name: str, *columns: sa.Column[Any]) -> sa.Table:
    run = sa.Column("run", sa.String(32), sa.ForeignKey("runs.run"), nullable=False, index=True)
    return sa.Table(name, _version_1, sa.Column("id", sa.Integer, primary_key=True), run, *columns)


def _needed(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


_LATER_TABLES = (
    _later_table(
        "spending",
        _needed("round", sa.Integer()),
        _needed("institution", sa.String(64)),
        _needed("epsilon", sa.Float()),
        sa.Column("ledger", sa.String(96)),
    ),
    _later_table(
        "evaluations",
        _needed("round", sa.Integer()),
        _needed("institution", sa.String(64)),
        _needed("split", sa.String(16)),
        _needed("epsilon", sa.Float()),
        sa.Column("ledger", sa.String(96)),
    ),
    _later_table(
        "findings",
        _needed("round", sa.Integer()),
        _needed("institution", sa.String(64)),
        _needed("part", sa.String(64)),
        _needed("filter", sa.String(32)),
        _needed("norm", sa.Float()),
        sa.Column("cosine", sa.Float()),
        _needed("verdict", sa.String(16)),
        sa.Column("reason", sa.Text()),
    ),
    _later_table(
        "cuts",
        _needed("round", sa.Integer()),
        _needed("split", sa.String(16)),
        _needed("institution", sa.String(64)),
        _needed("task", sa.String(64)),
        _needed("told", sa.BigInteger()),
        _needed("used", sa.Float()),
    ),
)

_RELEASE_TABLES = (
    _later_table(
        "releases",
        _needed("round", sa.Integer()),
        _needed("release", sa.String(64)),
        _needed("folder", sa.Text()),
        _needed("time", sa.String(32)),
    ),
    sa.Table(
        "withdrawals",
        _version_1,
        sa.Column("id", sa.Integer, primary_key=True),
        _needed("institution", sa.String(64)),
        _needed("withdrawn", sa.Boolean()),
        _needed("time", sa.String(32)),
    ),
)
