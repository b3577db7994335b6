from pathlib import Path

import pytest

from server.door.limits import MessageLimits
from server.door.speech import Speech
from simulations.benchmarks.door.requests import measure


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")  # Flower's migrations
def test_each_request_of_the_door_is_measured_beside_flowers(tmp_path: Path) -> None:
    rows = measure(tmp_path, 2)
    known = Speech(None, MessageLimits(2**20)).paths  # type: ignore[arg-type]
    flowers = {path for path in known if path.startswith("/v1/fleet/")}  # nothing of Flower's stands beside our own
    assert {f"/v1/fleet/{row['request']}" for row in rows} == flowers
    for row in rows:
        assert min(row["flower_ms"], row["door_ms"], row["ratio"]) > 0
        assert row["from_ms"] <= row["more_ms"] <= row["to_ms"]
