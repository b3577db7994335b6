"""What the coordinator remembers, and how: SQLAlchemy over SQLite by default, or PostgreSQL by URL.

A checkpoint's file is written and synced before its row, under a name that carries its hash, so that a row always has
its file, whatever dies when.
"""

import datetime
import hashlib
import json
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import sqlalchemy as sa
from safetensors import SafetensorError
from safetensors.numpy import load

from server.store import migrations
from server.store.schema import (
    UNENDED,
    checkpoints,
    cuts,
    evaluations,
    events,
    findings,
    replies,
    rounds,
    runs,
    scores,
    spending,
)
from shared.codec import as_safetensors
from shared.config import parse
from shared.errors import ConfigError, StoreError
from shared.federation import Federation
from shared.process.files import private_file, private_folder, write_synced
from shared.state import State, pack_state, unpack_state

if TYPE_CHECKING:
    from server.aggregation import Cut
    from server.robust import Finding


@dataclass(frozen=True)
class Reply:
    """How one institution answered one request; `status` is ok, refused, dropped or missing."""

    round: int
    kind: str
    institution: str
    status: str
    refusal: str | None = None
    """The kind of refusal (`shared.protocol.RefusalKind`), where the institution itself refused."""
    reason: str | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    examples: Mapping[str, int] | None = None
    """Training records per task that an update rests on."""
    losses: Mapping[str, float] | None = None
    """Mean training loss per task, as the institution says."""
    software: str | None = None


@dataclass(frozen=True)
class Score:
    """One metric of one task at one institution."""

    round: int
    split: str
    institution: str
    task: str
    metric: str
    value: float
    examples: int


class Store:
    """The coordinator's memory. Every failure of disk or database is a StoreError; what was stored before stays."""

    def __init__(self, engine: sa.Engine, folder: Path) -> None:
        self._engine = engine
        self._folder = folder

    @classmethod
    def open(cls, url: str, *, checkpoints: Path) -> Self:
        """Open or make the database at a SQLAlchemy URL; checkpoint files go under `checkpoints`.

        Raises:
            ConfigError: The URL is not one, or its database driver is not installed.
            StoreError: The database cannot be opened, or a later release of Collegium made it.
        """
        engine = _engine_of(url)
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", _set_up_sqlite)
            sa.event.listen(engine, "begin", _begin_sqlite)
        store = cls(engine, checkpoints)
        with store._writing("open the database"):
            private_folder(checkpoints)
            if engine.dialect.name == "sqlite" and (file := engine.url.database) not in (None, "", ":memory:"):
                private_file(Path(file))  # its -wal and -shm take its mode
        with store._writing("open the database") as connection:
            current = migrations.is_current(connection)
        if not current:
            with store._writing("bring the database up to date", alone=True) as connection:
                migrations.bring_up_to_date(connection)
        return store

    @property
    def _where(self) -> str:
        """The database, without a password."""
        url = self._engine.url
        file = url.database if self._engine.dialect.name == "sqlite" else None
        return file or url.render_as_string(hide_password=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    def create_run(self, federation: Federation, parent: tuple[str, int] | None = None) -> str:
        """Record a new run under this agreement; returns its id.

        Args:
            federation: The agreement.
            parent: The run and the round from whose state it begins, if not anew.
        """
        run = uuid.uuid4().hex[:8]
        self.insert(
            runs,
            run=run,
            federation=federation.name,
            digest=federation.digest,
            agreement=federation.model_dump_json(),
            status="queued",
            started=now(),
            parent=parent and parent[0],
            parent_round=parent and parent[1],
        )
        return run

    def update_run(self, run: str, **values: Any) -> None:
        """Set columns of a run, whatever its status."""
        with self._writing("update the run") as connection:
            connection.execute(sa.update(runs).where(runs.c.run == run).values(**values))

    def move_run(
        self, run: str, status: str, *, of: Collection[str] = UNENDED, at: int | None = None, **values: Any
    ) -> bool:
        """Give a run another status, unless another process was quicker.

        Args:
            run: The run.
            status: The new one; `queued`, `starting` and `running` forget the reason, the others set when it ended.
            of: The status that it must have.
            at: The number of the start that it must be at, if that matters.
            values: Further columns.

        Returns:
            Whether it had one of those, and has the new one now.
        """
        ended = None if status in UNENDED else now()
        values = {"status": status, "reason": None, "ended": ended} | values
        mine = (runs.c.run == run) & runs.c.status.in_(of)
        if at is not None:
            mine &= runs.c.attempt == at
        with self._writing("update the run") as connection:
            return bool(connection.execute(sa.update(runs).where(mine).values(**values)).rowcount)

    def change_agreement(self, run: str, federation: Federation) -> None:
        """Have a run go on under another agreement."""
        self.update_run(run, digest=federation.digest, agreement=federation.model_dump_json())

    def unended_runs(self) -> list[dict[str, Any]]:
        """Runs that the server goes on with, in the order in which they were made."""
        return self.select(sa.select(runs).where(runs.c.status.in_(UNENDED)).order_by(runs.c.started))

    def add_round(
        self,
        run: str,
        round: int,
        seconds: float,
        by_round: Mapping[int, float],
        *,
        participants: int | None = None,
        norm: float | None = None,
    ) -> None:
        """Record a finished round: who took part, how far the state moved, and the validation scores of all rounds.

        Args:
            run: The run.
            round: Its round.
            seconds: How long it took.
            by_round: Federated validation scores by round, this one's and earlier ones', which a new institution or
                task changes too (`server/rounds/comparing.py`); rounds that are not in it keep theirs.
            participants: Institutions whose updates were taken.
            norm: Of the step of the state.
        """
        values = {"seconds": seconds, "participants": participants, "norm": norm}
        with self._writing("store rounds") as connection:
            connection.execute(sa.insert(rounds).values(run=run, round=round, **values))
            for number, score in by_round.items():
                mine = (rounds.c.run == run) & (rounds.c.round == number)
                connection.execute(sa.update(rounds).where(mine).values(score=score))
            connection.execute(sa.update(runs).where(runs.c.run == run).values(tries=0))

    def add_reply(self, run: str, reply: Reply) -> None:
        """Record how an institution answered."""
        self.insert(replies, run=run, **vars(reply))

    def add_scores(self, run: str, values: Sequence[Score]) -> None:
        """Record scores; an institution's earlier scores of the same round and split are replaced."""
        with self._writing("store scores") as connection:
            for round, split, institution in {(v.round, v.split, v.institution) for v in values}:
                same = (scores.c.round == round) & (scores.c.split == split) & (scores.c.institution == institution)
                connection.execute(sa.delete(scores).where(scores.c.run == run, same))
            if values:
                connection.execute(sa.insert(scores), [{"run": run, **vars(value)} for value in values])

    def add_spending(self, run: str, round: int, institution: str, epsilon: float, ledger: str | None) -> None:
        """Record what an institution's data have spent after a round, and the last entry of its privacy ledger."""
        self.insert(spending, run=run, round=round, institution=institution, epsilon=epsilon, ledger=ledger)

    def add_evaluation(
        self, run: str, round: int, institution: str, split: str, epsilon: float, ledger: str | None
    ) -> None:
        """Record what scores have cost the owners of an institution's split, and the last entry of its ledger."""
        self.insert(
            evaluations, run=run, round=round, institution=institution, split=split, epsilon=epsilon, ledger=ledger
        )

    def last_ledgers(self) -> dict[str, str]:
        """By institution, the last entry of its privacy ledger that any run has heard of."""
        heads: dict[str, str] = {}
        for table in (evaluations, spending):
            query = sa.select(table.c.institution, table.c.ledger).where(table.c.ledger.is_not(None))
            last = {row["institution"]: row["ledger"] for row in self.select(query.order_by(table.c.id))}
            for institution, head in last.items():
                heads[institution] = max(head, heads.get(institution, head), key=lambda one: int(one.partition(":")[0]))
        return heads

    def add_findings(self, run: str, round: int, found: Sequence["Finding"]) -> None:
        """Record what a robust filter found in a round; an earlier attempt at the round is replaced."""
        with self._writing("store findings") as connection:
            connection.execute(sa.delete(findings).where(findings.c.run == run, findings.c.round == round))
            connection.execute(sa.insert(findings), [{"run": run, "round": round, **vars(one)} for one in found])

    def add_cuts(self, run: str, round: int, split: str, found: Sequence["Cut"]) -> None:
        """Record counts that were above their share; an earlier attempt at the round is replaced."""
        with self._writing("store cuts") as connection:
            same = (cuts.c.run == run) & (cuts.c.round == round) & (cuts.c.split == split)
            connection.execute(sa.delete(cuts).where(same))
            if found:
                connection.execute(
                    sa.insert(cuts), [{"run": run, "round": round, "split": split, **vars(one)} for one in found]
                )

    def trained(self, run: str, *, before: int) -> dict[str, dict[int, list[str]]]:
        """Per institution, the rounds before this one in which its update was taken, with its tasks in them."""
        taken: dict[str, dict[int, list[str]]] = {}
        query = sa.select(replies).where(replies.c.run == run, replies.c.kind == "train", replies.c.round < before)
        for row in self.select(query.order_by(replies.c.id)):
            rounds = taken.setdefault(row["institution"], {})
            rounds.pop(row["round"], None)  # a round that was trained again counts as it ended
            if row["status"] == "ok":
                rounds[row["round"]] = sorted(row["examples"] or ())
        return taken

    def add_event(self, run: str, text: str) -> None:
        """Record one line of the run's story."""
        self.insert(events, run=run, text=text, time=now())

    def save_checkpoint(self, run: str, round: int, state: State) -> str:
        """Store the state after a round: file first, synced, then the row; the file's SHA-256.

        Raises:
            StoreError: The disk is full or not writable; earlier checkpoints are untouched.
        """
        blob = as_safetensors(dict(sorted(pack_state(state).items())))
        sha256 = hashlib.sha256(blob).hexdigest()
        file = self._folder / run / f"round-{round:05d}-{sha256[:12]}.safetensors"
        with self._writing("write a checkpoint"):
            private_folder(file.parent)
            write_synced(file, blob)
        with self._writing("store a checkpoint") as connection:
            key = (checkpoints.c.run == run) & (checkpoints.c.round == round)
            connection.execute(sa.delete(checkpoints).where(key))
            row = {"run": run, "round": round, "file": file.name, "sha256": sha256}
            connection.execute(sa.insert(checkpoints).values(**row))
        return sha256

    def load_checkpoint(self, run: str, round: int) -> State:
        """The state after a round. Raises StoreError if there is none or its file was changed."""
        row = self._one(sa.select(checkpoints).where(checkpoints.c.run == run, checkpoints.c.round == round))
        if row is None:
            raise StoreError(f"Expected a checkpoint of run {run} after round {round}, but there is none.")
        file = self._folder / run / row["file"]
        try:
            blob = file.read_bytes()
            if hashlib.sha256(blob).hexdigest() == row["sha256"]:
                return unpack_state(load(blob))
        except (OSError, SafetensorError) as error:
            raise StoreError(f"Could not read the checkpoint {file}: {error}.") from error
        raise StoreError(
            f"Expected the checkpoint {file} as it was written, but it has been changed; use another round."
        )

    def last_round(self, run: str) -> int | None:
        """The last round with a checkpoint; None before the first."""
        row = self._one(sa.select(sa.func.max(checkpoints.c.round).label("round")).where(checkpoints.c.run == run))
        return None if row is None else row["round"]

    def run(self, run: str | None = None) -> dict[str, Any]:
        """One run's row, the latest if not named. Raises ConfigError if there is none."""
        query = sa.select(runs).order_by(runs.c.started.desc()).limit(1)
        row = self._one(query.where(runs.c.run == run) if run else query)
        if row is None:
            raise ConfigError(
                f"Expected a run {run or 'in the store'}, but there is none; see `collegium server status`."
            )
        return row

    def agreement(self, run: str) -> Federation:
        """The federation file that a run was started under."""
        return parse(Federation, json.loads(self.run(run)["agreement"]), where=f"run {run}")

    def rows(self, table: sa.Table, run: str | None = None) -> list[dict[str, Any]]:
        """All rows of a table, of one run if named, in the order of their keys."""
        query = sa.select(table).order_by(*(table.c.started,) if table is runs else table.primary_key.columns)
        return self.select(query.where(table.c.run == run) if run else query)

    def events_after(self, run: str, last: int) -> list[dict[str, Any]]:
        """The events of a run that were added after the one with the id `last`; 0 is before all of them."""
        return self.select(sa.select(events).where(events.c.run == run, events.c.id > last).order_by(events.c.id))

    def select(self, query: sa.Select[*tuple[Any, ...]]) -> list[dict[str, Any]]:
        """What a question to the tables finds, a row each, by the names of its columns."""
        with self._writing("read") as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def best_round(self, run: str) -> int | None:
        """The best of `best_rounds`; the last checkpoint where nothing was scored."""
        best = self.best_rounds(run)
        return best[0] if best else self.last_round(run)

    def best_rounds(self, run: str) -> list[int]:
        """The rounds whose checkpoints may be released, by their validation scores, the highest first.

        With [privacy] the last one alone, unless scores are private too (`privacy.evaluation_epsilon`): else the choice
        among rounds by private records would not be accounted for. Where ranks are pruned, only those after which the
        mean rank is the target.
        """
        agreed = self.agreement(run)
        if agreed.privacy and agreed.privacy.evaluation_epsilon is None:
            return []
        first = agreed.rounds.count - agreed.adapter.final_rounds if agreed.adapter.prunes else 0
        stored = {row["round"] for row in self.rows(checkpoints, run)}
        scored = [row for row in self.rows(rounds, run) if row["score"] is not None and row["round"] in stored]
        scored.sort(key=lambda row: (-row["score"], row["round"]))
        return [row["round"] for row in scored if row["round"] >= first]

    def keep_checkpoints(self, run: str, kept: Collection[int], *, older_than: float) -> None:
        """Throw away a run's checkpoints but those of some rounds, and files so many seconds old that no row names."""
        gone = (checkpoints.c.run == run) & checkpoints.c.round.not_in(sorted(kept))
        with self._writing("throw away checkpoints") as connection:
            files = set(connection.scalars(sa.select(checkpoints.c.file).where(gone)))
            connection.execute(sa.delete(checkpoints).where(gone))
        with self._writing("throw away checkpoints") as connection:
            named = set(connection.scalars(sa.select(checkpoints.c.file).where(checkpoints.c.run == run)))
            for file in (self._folder / run).glob("round-*.safetensors"):
                old = file.name in files or time.time() - file.stat().st_mtime > older_than
                if old and file.name not in named:
                    file.unlink(missing_ok=True)

    def forget_events(self, before: str) -> None:
        """Throw away the events of runs that ended before a time."""
        ended = sa.select(runs.c.run).where(runs.c.ended < before, runs.c.status.not_in(UNENDED))
        with self._writing("throw away events") as connection:
            connection.execute(sa.delete(events).where(events.c.run.in_(ended)))

    def _one(self, query: sa.Select[Any]) -> dict[str, Any] | None:
        found = self.select(query)
        return found[0] if found else None

    def insert(self, table: sa.Table, **values: Any) -> None:
        """Add a row to a table."""
        with self._writing(f"store {table.name}") as connection:
            connection.execute(sa.insert(table).values(**values))

    @contextmanager
    def _writing(self, doing: str, *, alone: bool = False) -> Iterator[sa.Connection]:
        try:
            with self._engine.execution_options(alone=alone).begin() as connection:
                yield connection
        except (OSError, sa.exc.SQLAlchemyError) as error:
            cause = getattr(error, "orig", None) or error
            raise StoreError(
                f"Could not {doing} at {self._where}: {cause}; what was stored before is intact, "
                "so make room or mend the access and resume the run."
            ) from error


def store_version(url: str) -> int:
    """The version of the store at a URL, without making or changing anything; 0 where there is none yet.

    Raises:
        ConfigError: As `Store.open`.
        StoreError: The database cannot be opened.
    """
    engine = _engine_of(url)
    if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").exists():
        return 0
    store = Store(engine, Path())
    try:
        with store._writing("open the database") as connection:
            return migrations.version_of(connection)
    finally:
        engine.dispose()


def _engine_of(url: str) -> sa.Engine:
    try:
        return sa.create_engine(url)
    except (sa.exc.ArgumentError, ImportError) as error:
        # The URL may hold a password, and SQLAlchemy's own message may repeat it.
        raise ConfigError(
            "Expected store_url to be a SQLAlchemy URL such as postgresql+psycopg://user@host/name with its driver "
            f"installed, but it cannot be used ({type(error).__name__}); mend it, or `pip install psycopg[binary]`."
        ) from None


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver would begin no transaction before a change of tables
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=15000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    alone = connection.get_execution_options().get("alone")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if alone else "BEGIN")


def now() -> str:
    """The time, in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
