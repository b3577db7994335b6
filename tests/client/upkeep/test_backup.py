"""An institution is copied while its daemon may write, and only the latest copy of its ledger counts."""

import shutil
from pathlib import Path

import pytest

from client.institution import load_institution
from client.keys import generate_node_key
from client.leaving import receipts
from client.leaving.receipts import Receipts, Release
from client.privacy.dataset import describe_dataset
from client.privacy.ledger import Ledger
from client.upkeep.backup import backup, restore
from shared.errors import BudgetError, ConfigError


def release(ledger: Ledger) -> Release:
    return Release("train", "ab" * 32, 1, None, "{}", "cd" * 32, "7", 1, (), 1.0, ledger.head)


def spend(ledger: Ledger) -> None:
    """One more entry."""
    ledger.introduce(describe_dataset({"17": ["a", "b"]}, "patient"))


def write_site(folder: Path, runtime: str = "") -> Path:
    """An institution's files, with one receipt and a ledger of one entry."""
    folder.mkdir()
    for name in ("federation.toml", "federation.next.toml", "ca.crt"):
        (folder / name).write_text(name)
    generate_node_key(folder / "node.key")
    file = folder / "institution.toml"
    file.write_text(f'name = "hospital"\n[data.notes]\ntrain = "data/notes.jsonl"\n[runtime]\n{runtime}\n')
    (folder / "data").mkdir()
    (folder / "data" / "notes.jsonl").write_text("never copied")
    site = load_institution(file)
    state = site.runtime.state
    ledger = Ledger.open(site.runtime.ledger or state / "ledger.sqlite")
    Receipts(state, site.identity.key).append(release(ledger))
    (state / "logs").mkdir()
    (state / "logs" / "executor.log").write_text("much")
    (state / "rounds").mkdir()
    (state / "rounds" / "kept").write_text("kept")
    return file


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return write_site(tmp_path / "site")


def test_all_but_the_data_comes_back(site: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    assert restore(backup(site, tmp_path / "copy.tar"), folder) == {}
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        "institution.toml",
        "federation.toml",
        "federation.next.toml",
        "ca.crt",
        "node.key",
        "node.pub",
        "state/ledger.sqlite",
        "state/receipts.jsonl",
        "state/receipts.head",
        "state/rounds/kept",
    }
    for name in ("node.key", "state/receipts.jsonl", "state/receipts.head"):
        assert (folder / name).read_bytes() == (site.parent / name).read_bytes()
    ledger = Ledger.open(folder / "state" / "ledger.sqlite", known=receipts.heads(folder / "state"))
    Receipts(folder / "state", folder / "node.key").append(release(ledger))


def test_what_lies_elsewhere_is_named(tmp_path: Path) -> None:
    lies = f'state = "{tmp_path / "var" / "state"}"\nledger = "{tmp_path / "var" / "books"}"'
    file = write_site(tmp_path / "site", lies)
    moved = restore(backup(file, tmp_path / "copy.tar"), tmp_path / "again")
    assert moved.keys() == {"runtime.state", "runtime.ledger"}
    assert (moved["runtime.state"] / "receipts.jsonl").is_file()
    Ledger.open(moved["runtime.ledger"], known=receipts.heads(moved["runtime.state"]))


def test_an_older_copy_trains_nothing(site: Path, tmp_path: Path) -> None:
    """The coordinator remembers the last entry that it has heard of, and tells it with every request."""
    made = backup(site, tmp_path / "copy.tar")
    ledger = Ledger.open(site.parent / "state" / "ledger.sqlite")
    spend(ledger)
    restore(made, tmp_path / "again")
    again = Ledger.open(tmp_path / "again" / "state" / "ledger.sqlite")
    with pytest.raises(BudgetError, match="an older copy lies there"):
        again.check([ledger.head])
    latest = backup(site, tmp_path / "latest.tar")
    restore(latest, tmp_path / "latest")
    Ledger.open(tmp_path / "latest" / "state" / "ledger.sqlite").check([ledger.head])


@pytest.mark.parametrize("lost", [True, False])
def test_a_ledger_older_than_the_receipts_is_not_restored(site: Path, tmp_path: Path, lost: bool) -> None:
    state = site.parent / "state"
    shutil.copy(state / "ledger.sqlite", tmp_path / "older")
    ledger = Ledger.open(state / "ledger.sqlite")
    spend(ledger)
    Receipts(state, site.parent / "node.key").append(release(ledger))
    (state / "ledger.sqlite").unlink()
    if not lost:
        (tmp_path / "older").rename(state / "ledger.sqlite")
    made = backup(site, tmp_path / "copy.tar")
    with pytest.raises(BudgetError, match="no such file" if lost else "an older copy lies there"):
        restore(made, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_before_the_first_start_there_is_little_to_copy(site: Path, tmp_path: Path) -> None:
    shutil.rmtree(site.parent / "state")
    restore(backup(site, tmp_path / "copy.tar"), tmp_path / "again")
    assert not (tmp_path / "again" / "state").exists()


def test_a_copy_within_itself_is_refused(site: Path) -> None:
    with pytest.raises(ConfigError, match="outside"):
        backup(site, site.parent / "state" / "copy.tar")


def test_all_federations_of_an_institution_come_back(site: Path, tmp_path: Path) -> None:
    folder = site.parent
    site.write_text(
        'name = "hospital"\n[runtime]\nledger = "books.sqlite"\n[data.notes]\ntrain = "data/notes.jsonl"\n'
        '[federation.north]\nfile = "north.toml"\n[federation.south]\nfile = "south.toml"\n'
    )
    for name in ("north", "south"):
        (folder / f"{name}.toml").write_text(name)
        one = load_institution(folder / f"institution.toml#{name}")
        assert one.runtime.ledger is not None
        Receipts(one.runtime.state, one.identity.key).append(release(Ledger.open(one.runtime.ledger)))
    again = tmp_path / "again"
    assert restore(backup(site, tmp_path / "copy.tar"), again) == {}
    for name in ("north", "south"):
        one = load_institution(again / f"institution.toml#{name}")
        assert one.federation.read_text() == name
        assert one.runtime.ledger is not None
        Ledger.open(one.runtime.ledger, known=receipts.heads(one.runtime.state))
        assert len(receipts.read(one.runtime.state)) == 1
