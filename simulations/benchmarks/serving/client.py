"""A server of a bundle in a process of its own, and Locust's clients of it in another."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import httpx

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
        _wait_until_it_answers(url)
        yield url, process.pid
    finally:
        process.terminate()
        process.communicate(timeout=END_SECONDS)


def ask(url: str, path: str, texts: Sequence[str], clients: int) -> tuple[float, list[float]]:
    """Have every text answered once, by so many clients at a time.

    Args:
        url: Of a server on this machine.
        path: What to ask.
        texts: One in each request.
        clients: Users of Locust.

    Returns:
        The seconds that all took, and those of each.

    Raises:
        ProcessError: There is no Locust, the server is elsewhere, or an answer was not 200.
    """
    if urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"):
        raise ProcessError(f"Expected a server on this machine to put a load on, not {url}.")
    if find_spec("locust") is None:  # not imported: it replaces the sockets of the process
        raise ProcessError("Expected Locust, which asks, but it is not installed; pip install 'collegium[bench]'.")
    given = {"url": url.rstrip("/"), "path": path, "texts": list(texts), "clients": clients}
    command = [sys.executable, "-m", "simulations.benchmarks.serving.locusts"]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProcessError(f"Locust ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    found = json.loads(done.stdout)
    if found["refused"]:
        raise ProcessError(f"Expected answers, but the server said {sorted(set(found['refused']))}.")
    return found["seconds"], found["each"]


def _wait_until_it_answers(url: str) -> None:
    ends = time.monotonic() + END_SECONDS
    while True:  # it listens before its model is there, so that the first answer says that it is
        try:
            httpx.get(f"{url.rstrip('/')}/health", timeout=END_SECONDS, trust_env=False).raise_for_status()
            return
        except httpx.TransportError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.1)
