"""Tokens: a private file, roles, rates; nothing of a token in an error."""

from pathlib import Path

import pytest

from client.serving.tokens import Doorkeeper
from shared.errors import ConfigError

LONG = "x" * 40


def file_of(folder: Path, text: str, mode: int = 0o600) -> Path:
    file = folder / "tokens.toml"
    file.write_text(text)
    file.chmod(mode)
    return file


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        (f'[a]\ntoken = "{LONG}"\n', 0o644, "tokens.toml"),
        ("", 0o600, "at least one"),
        ("[a", 0o600, "as TOML"),
        ('[a]\ntoken = "short-secret"\n', 0o600, "a.token: .*at least 32"),
        (f'[a]\ntoken = "{LONG}"\nrole = "root"\n', 0o600, "a.role"),
        (f'[a]\ntoken = "{LONG}"\ntexts_per_minute = 0\n', 0o600, "a.texts_per_minute"),
        (f'[a]\ntoken = "{LONG}"\nrate = 1\n', 0o600, "a.rate"),
        (f'[a]\ntoken = "{LONG}"\n[b]\ntoken = "{LONG}"\n', 0o600, "two are the same"),
        (f'[a]\ntoken = "{LONG} {LONG}"\n', 0o600, "a.token"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, text: str, mode: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Doorkeeper(file_of(tmp_path, text, mode))
    assert "short" not in str(caught.value)
    assert LONG not in str(caught.value)


def test_who_shows_what(tmp_path: Path) -> None:
    keeper = Doorkeeper(file_of(tmp_path, f'[a]\ntoken = "{LONG}"\n'))
    guest = keeper.find(f"Bearer {LONG}", "predict")
    assert guest is not None
    assert (guest.name, guest.may("predict"), guest.may("admin")) == ("a", True, False)
    assert keeper.find(f"bearer  {LONG} ", "predict") == guest
    for shown in ("", LONG, f"Basic {LONG}", f"Bearer {LONG}x", "Bearer ", "Bearer \udcff"):
        assert keeper.find(shown, "predict") is None
    anybody = Doorkeeper(None)
    assert [bool((one := anybody.find("", role)) and one.may(role)) for role in ("predict", "metrics", "admin")] == [
        True, True, False,
    ]  # fmt: skip


def test_a_rate_is_shared_by_workers_and_comes_back(tmp_path: Path) -> None:
    now = [0.0]
    file = file_of(tmp_path, f'[a]\ntoken = "{LONG}"\ntexts_per_minute = 60\n')
    keeper = Doorkeeper(file, share=0.5, clock=lambda: now[0])
    guest = keeper.find(f"Bearer {LONG}", "predict")
    assert guest is not None
    assert [keeper.take(guest, texts) for texts in (20, 10, 1)] == [0, 0, 2]
    now[0] = 2.0
    assert [keeper.take(guest, 1), keeper.take(guest, 1)] == [0, 2]
    now[0] = 1000.0
    assert [keeper.take(guest, 30), keeper.take(guest, 30)] == [0, 60]
