"""Every edit of the ledger's file is noticed, or changes nothing that is read."""

import json
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from client.hashchain import Head
from client.privacy import chain
from client.privacy.chain import Entry
from client.privacy.dataset import Dataset
from client.privacy.ledger import Ledger, Reservation
from shared.errors import BudgetError

Reserve = Callable[..., Reservation]
KINDS = {0: "ledger", 1: "data", 2: "reserve", 3: "commit", 4: "reserve"}


@pytest.fixture
def written(path: Path, reserve: Reserve) -> Path:
    """A ledger with an entry of each kind."""
    ledger = Ledger.open(path)
    ledger.commit(reserve(ledger, 10), 4)
    reserve(ledger, 20)
    return path


@contextmanager
def editing(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection


def entries(path: Path) -> list[Entry]:
    with chain.transaction(path, write=False) as found:
        return found.entries


def test_the_entries_are_of_these_kinds(written: Path) -> None:
    assert {entry.sequence: entry.kind for entry in entries(written)} == KINDS


@pytest.mark.parametrize("sequence", KINDS)
@pytest.mark.parametrize(
    ("column", "value"),
    [("sequence", 9), ("kind", "commit"), ("kind", "reserve"), ("kind", None), ("sha256", "0" * 64), ("sha256", None)],
)
def test_every_column_of_every_kind_is_covered(written: Path, sequence: int, column: str, value: object) -> None:
    if value == KINDS[sequence]:
        value = f"{value} "
    with editing(written) as connection:
        connection.execute(f"UPDATE entries SET {column} = ? WHERE sequence = ?", (value, sequence))
    with pytest.raises(BudgetError, match=f"has been edited at entry {min(sequence, 4)}"):
        Ledger.open(written)


@pytest.mark.parametrize("sequence", KINDS)
def test_every_value_of_every_kind_is_covered(written: Path, sequence: int) -> None:
    with editing(written) as connection:
        (body,) = connection.execute("SELECT body FROM entries WHERE sequence = ?", (sequence,)).fetchone()
        assert len(json.loads(body)) >= 3
        for name, value in json.loads(body).items():
            changed: object = [] if isinstance(value, list) else 0 if isinstance(value, int | float) else "other"
            edited = json.dumps({**json.loads(body), name: changed})
            connection.execute("UPDATE entries SET body = ? WHERE sequence = ?", (edited, sequence))
            connection.commit()
            with pytest.raises(BudgetError, match=f"has been edited at entry {sequence}"):
                Ledger.open(written)
        connection.execute("UPDATE entries SET body = ? WHERE sequence = ?", (body, sequence))
    Ledger.open(written)


@pytest.mark.parametrize("sequence", [0, 1, 2, 3])
def test_a_removed_entry_shows(written: Path, sequence: int) -> None:
    with editing(written) as connection:
        connection.execute("DELETE FROM entries WHERE sequence = ?", (sequence,))
    with pytest.raises(BudgetError, match=f"has been edited at entry {sequence}"):
        Ledger.open(written)


def test_a_removed_last_entry_shows_by_a_known_head(written: Path) -> None:
    head = entries(written)[-1].head
    with editing(written) as connection:
        connection.execute("DELETE FROM entries WHERE sequence = 4")
    with pytest.raises(BudgetError, match="an older copy"):
        Ledger.open(written, known=[head])


def test_entries_that_changed_places_show(written: Path) -> None:
    with editing(written) as connection:
        connection.executescript(
            "UPDATE entries SET sequence = 9 WHERE sequence = 2; UPDATE entries SET sequence = 2 WHERE sequence = 4;"
            "UPDATE entries SET sequence = 4 WHERE sequence = 9;"
        )
    with pytest.raises(BudgetError, match="has been edited at entry 2"):
        Ledger.open(written)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER forget AFTER INSERT ON entries BEGIN DELETE FROM entries WHERE sequence = 4; END",
        "CREATE TABLE more (number)",
        "ALTER TABLE entries ADD COLUMN more",
        "DROP TABLE entries",
    ],
)
def test_another_structure_is_refused(written: Path, statement: str) -> None:
    with editing(written) as connection:
        connection.execute(statement)
    with pytest.raises(BudgetError, match="has another structure"):
        Ledger.open(written)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("commit", {"reserve": 2, "steps": 0}),  # settled twice
        ("commit", {"reserve": 4, "steps": 21}),  # more than reserved
        ("commit", {"reserve": 4, "steps": -1}),
        ("commit", {"reserve": 1, "steps": 0}),  # no reservation
        ("commit", {"reserve": 4}),
        ("reserve", {"dataset": 2, "noise_multiplier": 1.0, "sampling_rate": 0.1, "steps": 1}),
        ("reserve", {"dataset": 1, "noise_multiplier": 1.0, "sampling_rate": 2.0, "steps": 1}),
        ("reserve", {"dataset": 1, "noise_multiplier": "1", "sampling_rate": 0.1, "steps": 1}),
        ("data", {"marks": 3}),
        ("gift", {}),
    ],
)
def test_entries_that_do_not_follow_are_refused_though_their_chain_is_right(
    written: Path, kind: str, body: dict[str, object]
) -> None:
    with chain.transaction(written, write=True) as found:
        found.append(kind, body)
    with pytest.raises(BudgetError, match="Expected a right entry 5"):
        Ledger.open(written)


@pytest.mark.parametrize("body", ["no json", "[1]", "3"])
def test_a_body_that_is_no_table_is_refused_though_its_chain_is_right(written: Path, body: str) -> None:
    digest = chain._after(entries(written)[-1].head, "commit", body).sha256
    with editing(written) as connection:
        connection.execute("INSERT INTO entries VALUES (5, 'commit', ?, ?)", (body, digest))
    with pytest.raises(BudgetError, match="has been edited at entry 5"):
        Ledger.open(written)


def test_an_edited_entry_with_its_own_digest_made_anew_breaks_the_next(written: Path) -> None:
    right = entries(written)
    with editing(written) as connection:
        (body,) = connection.execute("SELECT body FROM entries WHERE sequence = 2").fetchone()
        edited = body.replace('"steps": 10', '"steps": 4')
        digest = chain._after(right[1].head, "reserve", edited).sha256
        connection.execute("UPDATE entries SET body = ?, sha256 = ? WHERE sequence = 2", (edited, digest))
    assert edited != body
    with pytest.raises(BudgetError, match="has been edited at entry 3"):
        Ledger.open(written)


def test_a_gap_in_the_numbers_is_refused_though_the_chain_is_right(written: Path) -> None:
    last = Head(8, entries(written)[-1].sha256)
    digest = chain._after(last, "commit", '{"reserve": 4, "steps": 0}').sha256
    with editing(written) as connection:
        connection.execute("INSERT INTO entries VALUES (9, 'commit', '{\"reserve\": 4, \"steps\": 0}', ?)", (digest,))
    with pytest.raises(BudgetError, match="has been edited at entry 5"):
        Ledger.open(written)


def test_a_free_list_that_names_pages_in_use_is_refused_before_they_are_written_over(written: Path) -> None:
    content = bytearray(written.read_bytes())
    content[32:40] = (2).to_bytes(4, "big") + (1).to_bytes(4, "big")  # first free page, how many
    written.write_bytes(content)
    with pytest.raises(BudgetError, match="is damaged"):
        Ledger.open(written)


def test_an_edited_byte_is_noticed_or_harmless(written: Path, patients: Dataset, reserve: Reserve) -> None:
    original, right = written.read_bytes(), entries(written)
    rng = random.Random(5)
    # All of the header, and of the rest a random choice: most of it is unused.
    places = [*range(100), *rng.sample(range(100, len(original)), 60)]
    used = [place for place in range(100, len(original)) if original[place]]
    noticed = 0
    for place in places + rng.sample(used, 200):
        content = bytearray(original)
        content[place] ^= 1 << rng.randrange(8)
        written.write_bytes(content)
        try:
            assert entries(written) == right
            ledger = Ledger.open(written, known=[right[-1].head])
            reserve(ledger, 1)
            assert entries(written)[:-1] == right
            assert ledger.spent(patients, 1e-5).steps == 25
        except BudgetError:
            noticed += 1
    assert 150 < noticed < 350
