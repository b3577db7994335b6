"""What others may read of what Collegium keeps, by mode bits."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.keys import generate_node_key, read_private_key
from server.home import ServerHome, init_home, open_home
from server.store import Store
from shared.errors import ConfigError
from shared.process.files import check_private, private_file, private_folder


@pytest.fixture(autouse=True)
def careless() -> Iterator[None]:
    """As most shells are."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_is_its_owners_alone(tmp_path: Path) -> None:
    assert mode(private_folder(tmp_path / "state")) == 0o700


def test_an_older_folder_is_closed_with_all_that_is_in_it(tmp_path: Path) -> None:
    old = tmp_path / "state"
    (old / "logs").mkdir(parents=True)
    for file in (old / "ledger.sqlite", old / "logs" / "executor.log"):
        file.write_text("who was treated")
    (tmp_path / "elsewhere").write_text("not ours")
    (old / "link").symlink_to(tmp_path / "elsewhere")
    private_folder(old)
    assert [mode(p) for p in (old, old / "logs", old / "ledger.sqlite", old / "logs" / "executor.log")] == [
        0o700,
        0o700,
        0o600,
        0o600,
    ]
    assert mode(tmp_path / "elsewhere") == 0o644, "a link is not followed"


def test_a_file_keeps_its_content_and_is_closed(tmp_path: Path) -> None:
    (tmp_path / "old.db").write_text("kept")
    for name in ("old.db", "new.db"):
        private_file(tmp_path / name)
        assert mode(tmp_path / name) == 0o600
    assert (tmp_path / "old.db").read_text() == "kept"


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o644, 0o620, 0o602])
def test_a_key_that_others_may_open_is_refused_with_the_mending_command(tmp_path: Path, bits: int) -> None:
    key = tmp_path / "node.key"
    generate_node_key(key)
    read_private_key(key)
    key.chmod(bits)
    with pytest.raises(ConfigError, match=rf"mode {bits:04o}\); run `chmod 600 {key}`"):
        read_private_key(key)
    check_private(tmp_path / "absent.key")


@pytest.mark.parametrize("secret", ["ca.key", "server.key", "operator.token", "superexec.secret"])
def test_a_coordinator_does_not_start_on_an_open_secret(tmp_path: Path, secret: str) -> None:
    home = init_home(tmp_path / "home", hosts=["localhost"], public_port=1, operator_port=2)
    open_home(home.root)
    (home.secrets / secret).chmod(0o644)
    with pytest.raises(ConfigError, match=rf"{secret}.*chmod 600"):
        open_home(home.root)


def test_a_coordinators_folder_is_private(tmp_path: Path) -> None:
    home: ServerHome = init_home(tmp_path / "home", hosts=["localhost"], public_port=1, operator_port=2)
    for folder in (home.root, home.secrets, *home.private):
        assert mode(folder) == 0o700


def test_a_stores_database_and_its_log_are_private(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path / 'collegium.db'}", checkpoints=tmp_path / "checkpoints") as store:
        store.add_cuts("none", 1, "train", ())
        assert sorted(file.name for file in tmp_path.glob("collegium.db*"))[0] == "collegium.db"
        assert all(mode(file) == 0o600 for file in tmp_path.glob("collegium.db*"))
    assert mode(tmp_path / "checkpoints") == 0o700


@pytest.mark.parametrize(
    "arguments",
    [("-m", "collegium", "methods"), ("-m", "client.service.executor", "--institution", "x", "--runtime", "y")],
)
def test_every_process_begins_with_a_closed_umask(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """The umask that the program has as it ends is written down by an exit handler."""
    told = tmp_path / "umask"
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, pathlib\n"
        f"atexit.register(lambda: pathlib.Path({str(told)!r}).write_text(oct(os.umask(0))))\n"
    )
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', os.getcwd())}"
    more = ("--secret-file", str(tmp_path / "absent")) if "client.service.executor" in arguments else ()
    subprocess.run(
        [sys.executable, *arguments, *more], env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=False
    )
    assert told.read_text() == "0o77"
