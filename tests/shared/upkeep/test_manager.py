import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.process.supervisor import supervise
from shared.upkeep.manager import Watchdog, tell


@pytest.fixture(params=["path", "abstract"])
def listener(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """What a service manager does."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@collegium-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(name.replace("@", "\0", 1))
        ear.settimeout(5)
        yield ear


def test_what_is_told_is_heard(listener: socket.socket) -> None:
    tell("READY=1")
    assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize("name", [None, "", "relative", "/nobody/listens"])
def test_nobody_need_listen(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if name is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", name)
    tell("READY=1")


def test_the_watchdog_is_fed_three_times_in_its_time(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    now = [0.0]
    watchdog = Watchdog(lambda: now[0])
    for second in range(31):
        now[0] = float(second)
        watchdog.look()
    listener.setblocking(False)
    heard = []
    while True:
        try:
            heard.append(listener.recv(100))
        except BlockingIOError:
            break
    assert heard == [b"WATCHDOG=1"] * 4  # after 0, 10, 20 and 30 s


@pytest.mark.parametrize("variables", [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}])
def test_a_watchdog_of_nobody_is_not_fed(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    Watchdog().look()
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.recv(100)


def test_who_supervises_feeds_it_and_says_when_it_stops(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1500000")
    stop = threading.Event()
    thread = threading.Thread(target=supervise, args=([],), kwargs={"stop": stop, "announce": print})
    thread.start()
    assert [listener.recv(100) for _ in range(2)] == [b"WATCHDOG=1"] * 2
    stop.set()
    thread.join()
    heard = listener.recv(100)
    assert b"STOPPING=1" in (heard, listener.recv(100) if heard == b"WATCHDOG=1" else heard)
