"""Rows that were finished are not made again, whatever happened after them."""

from pathlib import Path
from typing import Any

import pytest

from shared.errors import ConfigError
from simulations.benchmarks.scores.resumable import finish

KNOWN = {"one": 1, "two": 2, "three": 3}


def test_an_interrupted_table_goes_on_where_it_stopped(tmp_path: Path) -> None:
    made: list[str] = []

    def run(name: str, value: int, broken: bool) -> dict[str, Any]:
        if broken and name == "two":
            raise KeyboardInterrupt
        made.append(name)
        return {"value": value}

    out = tmp_path / "rows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        finish(KNOWN, out, None, lambda name, value: run(name, value, True))
    assert [row["row"] for row in finish(KNOWN, out, ["three"], lambda name, value: run(name, value, False))] == [
        "one",
        "three",
    ]
    rows = finish(KNOWN, out, None, lambda name, value: run(name, value, False))
    assert rows == [{"row": name, "value": value} for name, value in KNOWN.items()]
    assert made == ["one", "three", "two"]


def test_an_unknown_row_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"name rows among \['one', 'two', 'three'\], not \['four'\]"):
        finish(KNOWN, tmp_path / "rows.jsonl", ["one", "four"], lambda name, value: {})
    assert not list(tmp_path.iterdir())
