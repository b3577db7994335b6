from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.watching.token import shows, token_of


def test_it_is_made_once_and_its_owner_s_alone(tmp_path: Path) -> None:
    token = token_of(tmp_path / "token")
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert token_of(tmp_path / "token") == token
    assert len(token) > 40
    assert shows(f"Bearer {token}", token)
    assert not any(shows(other, token) for other in ("", token, f"Bearer {token}x", "Bearer ", "Bearer \N{SNOWMAN}"))


def test_one_that_others_may_read_is_refused(tmp_path: Path) -> None:
    token_of(tmp_path / "token")
    (tmp_path / "token").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        token_of(tmp_path / "token")


def test_one_that_is_empty_or_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "token").touch(mode=0o600)
    with pytest.raises(ConfigError, match="empty"):
        token_of(tmp_path / "token")
    with pytest.raises(ConfigError, match="cannot be read"):
        token_of(tmp_path / "no folder" / "token")
