"""A coordinator's folder, and a real SuperLink that serves it, once per test session."""

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server.home import ServerHome, init_home, read_settings
from shared.flower import flower_environment


def free_ports() -> tuple[int, int]:
    """Two TCP ports that nothing on loopback uses."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    """A new coordinator's folder on free ports."""
    public, operator = free_ports()
    return init_home(tmp_path / "coordinator", hosts=["localhost"], public_port=public, operator_port=operator)


@contextlib.contextmanager
def serving(home: ServerHome) -> Iterator[subprocess.Popen[bytes]]:
    """Serve a folder with `python -m server.superlink` in a process of its own."""
    with (home.logs / "superlink.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "server.superlink", "--home", str(home.root)],
            env={**os.environ, **flower_environment(home.flower)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until_up(home)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)


def wait_until_up(home: ServerHome, seconds: float = 40.0) -> None:
    """Wait for the public door's health."""
    url = f"https://127.0.0.1:{read_settings(home).public_port}/health"
    trusted = ssl.create_default_context(cafile=str(home.ca_certificate))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, verify=trusted, timeout=2.0).status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"no health after {seconds} s: {(home.logs / 'superlink.log').read_text()}")


@pytest.fixture
def superlink(home: ServerHome) -> Iterator[subprocess.Popen[bytes]]:
    """A real SuperLink of its own for the folder `home`."""
    with serving(home) as process:
        yield process


@pytest.fixture(scope="session")
def served_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHome]:
    """A folder that a real SuperLink serves for the whole session."""
    public, operator = free_ports()
    root = tmp_path_factory.mktemp("served") / "coordinator"
    home = init_home(root, hosts=["localhost"], public_port=public, operator_port=operator)
    with serving(home):
        yield home
