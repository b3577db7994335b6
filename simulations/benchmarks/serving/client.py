"""Clients that cost next to nothing beside the server that they measure: a connection each, a request at a time."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from shared.errors import ProcessError

END_SECONDS = 60.0


@contextmanager
def server(bundle: Path, threads: int, *more: str) -> Iterator[tuple[str, int]]:
    """A server of a bundle in a process of its own: its address, and the process's number."""
    command = [sys.executable, "-P", "-m", "collegium", "serve", str(bundle), "--port", "0", "--threads", str(threads)]
    process = subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        asyncio.run(_until_it_answers(url))
        yield url, process.pid
    finally:
        process.terminate()
        process.communicate(timeout=END_SECONDS)


def ask(url: str, path: str, texts: Sequence[str], clients: int) -> tuple[float, list[float]]:
    """Have every text answered once, by so many clients at a time.

    Returns:
        The seconds that all took, and those of each.

    Raises:
        ProcessError: An answer was not 200.
    """
    left, seconds = list(reversed(texts)), list[float]()

    async def one() -> None:
        reader, writer = await _connect(url)
        while left:
            request = _request(path, left.pop())
            started = time.perf_counter()
            writer.write(request)
            await _answer(reader)
            seconds.append(time.perf_counter() - started)
        writer.close()

    async def everyone() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(one())

    started = time.perf_counter()
    asyncio.run(everyone())
    return time.perf_counter() - started, seconds


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    where = urlsplit(url)
    return await asyncio.open_connection(where.hostname, where.port)


async def _until_it_answers(url: str) -> None:
    ends = time.monotonic() + END_SECONDS
    while True:  # it listens before its model is there, so that the first answer says that it is
        try:
            reader, writer = await _connect(url)
            writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await asyncio.wait_for(_answer(reader), END_SECONDS)
            return writer.close()
        except (OSError, asyncio.IncompleteReadError):
            if time.monotonic() > ends:
                raise
            await asyncio.sleep(0.1)


def _request(path: str, text: str) -> bytes:
    body = json.dumps({"inputs": text}).encode()
    lines = [f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json"]
    lines += [f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    body = await reader.readexactly(int(head.partition("content-length:")[2].partition("\r\n")[0]))
    if not head.startswith("http/1.1 200"):
        raise ProcessError(f"Expected an answer, but the server said {head.partition(chr(13))[0]!r}.")
    return body
