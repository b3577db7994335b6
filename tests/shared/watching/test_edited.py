from collections.abc import Callable
from pathlib import Path

import tomli_w

from shared.federation import Federation
from shared.watching.edited import Watched


def test_a_new_agreement_is_spoken_of_once_and_a_comment_is_not(
    tmp_path: Path, tiny_federation: Callable[..., Federation]
) -> None:
    path, federation = tmp_path / "federation.toml", tiny_federation()
    text = tomli_w.dumps(federation.model_dump(mode="json", exclude_none=True))
    path.write_text(text)
    watched = Watched(path)
    assert watched.change() is None
    path.write_text(text + "# a comment")
    assert watched.change() is None
    path.write_text("half a fi")
    assert watched.change() is None
    path.write_text(text.replace("count = 2", "count = 3"))
    change = watched.change()
    assert change is not None
    assert federation.digest[:12] in change
    assert watched.change() is None
    path.unlink()
    assert watched.change() is None


def test_a_file_that_comes_later_is_a_change(tmp_path: Path, tiny_federation: Callable[..., Federation]) -> None:
    watched = Watched(tmp_path / "federation.toml")
    text = tomli_w.dumps(tiny_federation().model_dump(mode="json", exclude_none=True))
    (tmp_path / "federation.toml").write_text(text)
    assert "none..." in str(watched.change())
