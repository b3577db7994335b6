"""The rows of a query, by SQLAlchemy: streamed, in a transaction that only reads, and rolled back."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from client.data.readers.base import Rows, Source
from client.data.readers.options import Database
from shared.errors import ConfigError, DataError, plain
from shared.process.files import check_private

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine import URL

AT_A_TIME = 500
"""Rows that are fetched at once."""


def read(source: Source) -> Rows:
    """The rows of the query in a file; place is the row."""
    query = query_of(source.path)
    with asking(source) as engine, reading(engine) as connection:
        result = connection.exec_driver_sql(query, execution_options={"no_parameters": True})
        for number, row in enumerate(result.mappings(), start=1):
            yield f"row {number}", dict(row)


def query_of(path: Path) -> str:
    """The query in a file; DataError if there is none."""
    query = path.read_text(encoding="utf-8-sig").strip().rstrip(";")
    if not query:
        raise DataError(f"Expected an SQL query in {path}, but the file is empty.")
    return query


@contextmanager
def asking(source: Source) -> Iterator["Engine"]:
    """The database of a source; what goes wrong with it is a DataError without a password in it."""
    from sqlalchemy import NullPool, create_engine
    from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

    database = source.how.database
    assert database  # `Data` says so
    url = _url(database)
    where = f"{url.get_backend_name()}://{url.host or ''}/{url.database or ''}"
    try:
        yield create_engine(url, poolclass=NullPool)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Expected Python's driver {error.name} for {where}, but it is missing; install it beside Collegium "
            f"(pip install {error.name})."
        ) from None
    except NoSuchModuleError as error:
        raise ConfigError(f"Expected a database that SQLAlchemy knows, not {where}: {error}.") from None
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
        raise DataError(f"Could not ask {where} what {source.path} says: {plain(reason, 200).rstrip('.')}.") from None


@contextmanager
def reading(engine: "Engine") -> Iterator["Connection"]:
    """A connection that streams, reads only where the database can hold it to that, and leaves nothing."""
    options: dict[str, Any] = {"stream_results": True, "yield_per": AT_A_TIME}
    if engine.dialect.name == "postgresql":
        options["postgresql_readonly"] = True
    with engine.connect().execution_options(**options) as connection:
        try:
            yield connection
        finally:
            connection.rollback()


def _url(database: Database) -> "URL":
    from sqlalchemy.engine import make_url

    url = make_url(database.url)
    if url.get_backend_name() == "sqlite" and url.database and not url.database.startswith((":", "file:")):
        if not Path(url.database).is_file():
            raise DataError(f"Expected a database of SQLite at {url.database}, but there is none; check the path.")
        file = quote(str(Path(url.database).absolute()))
        return url.set(database=f"file:{file}", query={**url.query, "mode": "ro", "uri": "true"})
    password = _password(database)
    return url.set(password=password) if password is not None else url


def _password(database: Database) -> str | None:
    if database.password_env:
        if database.password_env not in os.environ:
            raise ConfigError(
                f"Expected the database's password in the environment variable {database.password_env}, but it is not "
                "set; set it for the daemon, or use password_file."
            )
        return os.environ[database.password_env]
    if database.password_file:
        try:
            check_private(database.password_file)
            return database.password_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                f"Expected the database's password in {database.password_file}, but it cannot be read "
                f"({error.strerror}); check the path."
            ) from None
    return None
