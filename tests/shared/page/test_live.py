"""One reader for all pages that are open; each is sent what has changed since it was sent something last."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator

from shared.page.live import NOTHING, Live, message
from shared.page.threads import in_thread


async def part(stream: AsyncIterator[str]) -> str:
    """The next message that says something."""
    while True:
        if (found := await asyncio.wait_for(anext(stream), 10.0)) != NOTHING:
            return found


def test_many_pages_are_one_look() -> None:
    looks = 0

    def look() -> dict[str, str]:
        nonlocal looks
        looks += 1
        return {"count": str(looks // 3), "always": "same"}

    async def follow() -> None:
        live = Live(look, pause=0.02)
        streams = [live._messages(lambda: True) for _ in range(20)]
        first = await asyncio.gather(*map(part, streams))
        assert len(set(first)) == 1
        assert "same" in first[0]
        second = await asyncio.gather(*map(part, streams))
        assert len(set(second)) == 1
        assert 'hx-target="#count"' in second[0]
        assert "same" not in second[0], "what has not changed is not sent again"
        assert live.followed
        assert looks < 20, "not one for every page"
        await asyncio.gather(*(stream.aclose() for stream in streams))  # type: ignore[attr-defined]
        assert not live.followed
        await asyncio.sleep(0.1)
        seen = looks
        await asyncio.sleep(0.1)
        assert looks == seen, "nobody looks when no page is open"

    asyncio.run(follow())


def test_a_page_whose_session_has_ended_is_sent_no_more() -> None:
    good = True

    async def follow() -> None:
        nonlocal good
        live = Live(lambda: {"a": "b"}, pause=0.02)
        stream = live._messages(lambda: good)
        await part(stream)
        good = False
        live._changed.set()
        assert [each async for each in stream] == []

    asyncio.run(follow())


def test_a_failed_look_is_no_end() -> None:
    found: list[dict[str, str]] = [{"a": "b"}]

    def look() -> dict[str, str]:
        if not found:
            return {"a": "c"}
        found.pop()
        raise OSError("the disk is away")

    async def follow() -> None:
        stream = Live(look, pause=0.02)._messages(lambda: True)
        assert "c" in await part(stream)

    asyncio.run(follow())


def test_a_part_of_several_lines_is_one_message() -> None:
    sent = message({"a": "one\ntwo"})
    assert sent.endswith("two</hx-partial>\n\n")
    assert all(line.startswith("data: ") for line in sent.splitlines() if line)


def test_pages_leave_threads_to_others() -> None:
    busy, most = 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.05)
        with lock:
            busy -= 1

    async def many() -> None:
        await asyncio.gather(*(in_thread(work) for _ in range(20)))

    asyncio.run(many())
    assert 1 < most <= 4
