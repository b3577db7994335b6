"""What a site keeps from round to round: in memory, and in files that an earlier release has written."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from client.round.keep import RUNS, Keep, LocalState
from shared.codec import Arrays
from shared.errors import ProtocolError, StoreError

A = "adapter/x.lora_A.weight"


def arrays(value: float) -> Arrays:
    return {A: np.full((2, 3), value, np.float32)}


@pytest.fixture(params=["memory", "files"])
def keep(request: pytest.FixtureRequest, tmp_path: Path) -> Keep:
    return Keep(tmp_path / "rounds" if request.param == "files" else None)


def test_a_round_begins_from_the_last_one_before_it(keep: Keep) -> None:
    assert keep.before("r1", 1) == LocalState()
    keep.after("r1", 1, LocalState(home=arrays(1.0)))
    keep.after("r1", 3, LocalState(home=arrays(3.0), residual=arrays(0.5)))
    assert keep.before("r1", 3).home[A][0, 0] == keep.upto("r1", 2).home[A][0, 0] == 1.0
    assert keep.upto("r1", 3).parts.keys() == {"home", "residual"}
    assert keep.upto("r2", 3) == LocalState()


def test_a_round_trained_again_forgets_itself_and_later_ones(keep: Keep) -> None:
    for number in (1, 2, 3):
        keep.after("r1", number, LocalState(variates=arrays(number)))
    keep.after("r1", 2, LocalState(variates=arrays(7.0)))
    assert keep.upto("r1", 9).variates[A][0, 0] == 7.0
    keep.after("r1", 2, LocalState())
    assert keep.upto("r1", 9).variates[A][0, 0] == 1.0


def test_a_file_has_the_names_that_it_has_always_had(tmp_path: Path) -> None:
    kept = LocalState(home=arrays(1.0), variates=arrays(2.0), residual=arrays(3.0))
    Keep(tmp_path).after("r1", 4, kept)
    assert load_file(tmp_path / "r1" / "00004.safetensors").keys() == {f"{part}|{A}" for part in kept.parts}
    assert {name for name, part in kept.parts.items() if part} == {"home", "variates", "residual"}
    again = Keep(tmp_path).upto("r1", 4)
    assert all(np.array_equal(again.parts[part][A], held[A]) for part, held in kept.parts.items())


def test_of_a_round_with_nothing_to_keep_nothing_is_written(tmp_path: Path) -> None:
    Keep(tmp_path).after("r1", 1, LocalState())
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_one_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "r1").mkdir()
    file = tmp_path / "r1" / "00001.safetensors"
    file.write_bytes(b"text")
    with pytest.raises(StoreError, match=r"r1/00001\.safetensors"):
        Keep(tmp_path).upto("r1", 1)
    save_file({f"moments|{A}": arrays(1.0)[A]}, file)
    with pytest.raises(StoreError, match=r"r1/00001\.safetensors.*moments"):
        Keep(tmp_path).upto("r1", 1)
    with pytest.raises(ProtocolError, match="run's name"):
        Keep(tmp_path).upto("../r1", 1)


def test_only_the_latest_runs_are_kept(tmp_path: Path) -> None:
    keep = Keep(tmp_path)
    for number in range(RUNS + 2):
        keep.after(f"r{number}", 1, LocalState(home=arrays(number)))
    assert len(list(tmp_path.iterdir())) == RUNS
    assert keep.upto(f"r{RUNS + 1}", 1).parts
