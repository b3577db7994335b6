import io
import json
import sqlite3
import tarfile
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ConfigError, StoreError
from shared.upkeep.archive import MANIFEST, Collected, files_below, pack, unpacked


def restored(file: Path, folder: Path, kind: str = "a thing") -> Path:
    with unpacked(file, folder, kind=kind):
        pass
    return folder


def whole(folder: Path, into: Collected) -> Mapping[str, Any]:
    into.add_folder("", folder)
    return {}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "key").write_text("secret" * 1000)
    (source / "note").write_text("note")
    return pack(tmp_path / "copy.tar", partial(whole, source), kind="a thing")


def test_what_is_packed_is_unpacked_and_its_owners_alone(archive: Path, tmp_path: Path) -> None:
    folder = restored(archive, tmp_path / "new")
    assert (folder / "deep" / "key").read_text() == "secret" * 1000
    assert (folder / "note").read_text() == "note"
    assert sorted(path.name for path in folder.rglob("*")) == ["deep", "key", "note"]
    assert {path.stat().st_mode & 0o777 for path in (archive, folder / "note", folder / "deep" / "key")} == {0o600}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.tar", "new", "source"]


def test_a_database_is_copied_between_two_transactions(tmp_path: Path) -> None:
    file = tmp_path / "live.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE entries (number INTEGER)")
        writer.execute("INSERT INTO entries VALUES (1)")  # lies in the log, not in the file
        writer.execute("BEGIN")
        writer.execute("INSERT INTO entries VALUES (2)")
        made = pack(tmp_path / "copy.tar", partial(whole, tmp_path), kind="a thing")
        writer.execute("COMMIT")
        assert writer.execute("SELECT COUNT(*) FROM entries").fetchone() == (2,)
    folder = restored(made, tmp_path / "new")
    with closing(sqlite3.connect(folder / "live.db")) as copy:
        assert copy.execute("SELECT number FROM entries").fetchall() == [(1,)]
    assert [path.name for path in folder.iterdir()] == ["live.db"]


def test_what_is_no_database_ends_the_copy(tmp_path: Path) -> None:
    (tmp_path / "live.db").write_text("no database at all, " * 100)
    with pytest.raises(StoreError, match=r"live\.db: file is not a database"):
        pack(tmp_path / "copy.tar", partial(whole, tmp_path), kind="a thing")
    assert [path.name for path in tmp_path.iterdir()] == ["live.db"]


def test_files_without_a_meaning_are_left_out(tmp_path: Path) -> None:
    for name in ("a.lock", "b.part", "c.db-wal", ".collegium-xyz/d", "logs/e", "kept"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [file.name for file in files_below(tmp_path, [tmp_path / "logs"])] == ["kept"]


@pytest.mark.parametrize("times", [1, 3])
def test_a_file_that_goes_away_meanwhile(tmp_path: Path, times: int) -> None:
    calls = 0

    def collect(into: Collected) -> Mapping[str, Any]:
        nonlocal calls
        calls += 1
        into.add("here", Path(__file__))
        if calls <= times:
            into.add("gone", tmp_path / "gone")
        return {}

    if times < 3:
        folder = restored(pack(tmp_path / "copy.tar", collect, kind="a thing"), tmp_path / "new")
        assert [path.name for path in folder.iterdir()] == ["here"]
    else:
        with pytest.raises(StoreError, match="gone has gone each time"):
            pack(tmp_path / "copy.tar", collect, kind="a thing")
        assert list(tmp_path.iterdir()) == []


def test_no_file_is_replaced(archive: Path) -> None:
    with pytest.raises(ConfigError, match=r"copy\.tar exists"):
        pack(archive, lambda into: {}, kind="a thing")


def test_no_folder_with_something_in_it_is_restored_to(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has something in it"):
        restored(archive, tmp_path / "source")


def test_of_what_fails_after_unpacking_nothing_stays(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no"), unpacked(archive, tmp_path / "new", kind="a thing"):
        raise ConfigError("no")
    assert not (tmp_path / "new").exists()


def test_a_copy_of_something_else(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a backup of a cat .* it is one of a thing"):
        restored(archive, tmp_path / "new", "a cat")


@pytest.mark.parametrize("how", ["edited", "cut", "added", "removed", "no archive"])
def test_a_damaged_archive_restores_nothing(archive: Path, tmp_path: Path, how: str) -> None:
    content = archive.read_bytes()
    if how == "edited":
        content = content.replace(b"secretsecret", b"secretsecreT", 1)
    elif how == "cut":
        content = content[:3000]
    elif how == "no archive":
        content = b"words"
    archive.write_bytes(content)
    if how == "added":
        with tarfile.open(archive, "a") as tar:
            tar.addfile(tarfile.TarInfo("more"), io.BytesIO())
    elif how == "removed":
        write(archive, {}, {"note": "0" * 64})
    with pytest.raises(ConfigError, match="has been cut or changed"):
        restored(archive, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../out"])
def test_nothing_is_written_outside(tmp_path: Path, name: str) -> None:
    write(
        tmp_path / "copy.tar", {name: b""}, {name: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
    )
    with pytest.raises(ConfigError, match="has been cut or changed"):
        restored(tmp_path / "copy.tar", tmp_path / "new")
    assert not (tmp_path / "out").exists()


def write(file: Path, files: Mapping[str, bytes], sums: Mapping[str, str]) -> None:
    """An archive by hand."""
    manifest = json.dumps({"format": 1, "kind": "a thing", "files": sums}).encode()
    with tarfile.open(file, "w") as tar:
        for name, content in {**files, MANIFEST: manifest}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
