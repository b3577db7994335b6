"""Light institutions at a real door: they live as institutions do, and ask it for as little."""

import asyncio
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from server.home import read_settings
from shared.process.waiting import LONGEST_SECONDS
from simulations.attacks.coordinator import new_home, serving, trusting
from simulations.benchmarks.door.light import LightNode
from simulations.benchmarks.door.nodes import enrol

IDLE_SECONDS = 2.4 * LONGEST_SECONDS


class Counting(LightNode):
    """Counts its requests."""

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self.asked = Counter[str]()

    async def _ask(self, path: str, message: Any, **more: Any) -> bytes:
        self.asked[path] += 1
        return await super()._ask(path, message, **more)


@pytest.mark.slow
@pytest.mark.timeout(600)  # it only waits: the sooner it begins, the better
def test_without_a_run_each_asks_once_in_25_seconds(tmp_path: Path) -> None:
    home = new_home(tmp_path / "coordinator")
    with serving(home):
        address = f"https://127.0.0.1:{read_settings(home).public_port}"
        ids = enrol(home, 3)
        nodes = [Counting(number, node_id, address, trusting(home), 1000) for number, node_id in enumerate(ids)]

        async def idle() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(IDLE_SECONDS):
                    await asyncio.gather(*(node.live() for node in nodes))

        asyncio.run(idle())
    for node in nodes:
        assert node.asked["activate-node"] == 1
        assert node.asked["pull-messages"] == 3  # the third is held still
        assert node.asked["send-node-heartbeat"] <= IDLE_SECONDS / 16
        assert set(node.asked) <= {"activate-node", "pull-messages", "send-node-heartbeat"}
