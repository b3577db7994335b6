"""The key that signs releases: made once, its owner's alone, and made later for folders that were made without."""

import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from collegium.__main__ import app
from server.home import ServerHome, open_home
from server.release.key import signing_key
from shared.bundle.keys import read_release_key, release_line
from shared.errors import ConfigError


def test_init_makes_it(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["server", "init", str(tmp_path / "c")]).exit_code == 0
    home = ServerHome(tmp_path / "c")
    assert home.release_key.exists()
    assert read_release_key(home.release_public_key) == release_line(signing_key(home).public_key())


def test_an_older_folder_gets_one_when_it_is_needed_and_keeps_it(home: ServerHome) -> None:
    assert not home.release_key.exists()
    open_home(home.root)
    line = release_line(signing_key(home).public_key())
    assert stat.S_IMODE(home.release_key.stat().st_mode) == 0o600
    home.release_public_key.unlink()
    assert release_line(signing_key(home).public_key()) == line == read_release_key(home.release_public_key)


def test_one_that_others_may_read_or_that_is_none_is_refused(home: ServerHome) -> None:
    signing_key(home)
    home.release_key.chmod(0o644)
    for use in (signing_key, lambda home: open_home(home.root)):
        with pytest.raises(ConfigError, match="its owner's alone"):
            use(home)
    home.release_key.chmod(0o600)
    for content in (b"no key", home.server_key.read_bytes()):
        home.release_key.write_bytes(content)
        with pytest.raises(ConfigError, match="signs releases"):
            signing_key(home)
