"""Who asks the database has few threads, and no node has more than one of them."""

import threading

import anyio

from server.door.fleet import in_turn
from server.door.limits import THREADS


def test_a_node_has_one_thread_at_a_time() -> None:
    end, under_way, most = threading.Event(), list[int](), list[int]()

    def ask(node_id: int) -> None:
        under_way.append(node_id)
        most.append(under_way.count(1))
        if node_id == 1:
            assert end.wait(30)
        under_way.remove(node_id)

    async def both() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(2 * THREADS):
                tasks.start_soon(in_turn, 1, ask, 1)
            await anyio.sleep(0.05)
            with anyio.fail_after(20):
                await in_turn(2, ask, 2)
            end.set()

    anyio.run(both)
    assert max(most) == 1
    assert len(most) == 2 * THREADS + 1
