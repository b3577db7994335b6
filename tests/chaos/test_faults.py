"""What faults are made of: cut lines, clocks that jump, full disks."""

import errno
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import ProcessError
from simulations.chaos.clock import Clock, has_compiler
from simulations.chaos.disk import fill, may_mount, small_disk
from simulations.chaos.network import Line

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C compiler, which a clock that jumps needs")
needs_mount = pytest.mark.skipif(not may_mount(), reason="this user may not mount a small disk")


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


@pytest.fixture
def line() -> Iterator[Line]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        line = Line(server.server_address[1])
        yield line
        line.close()
        server.shutdown()


def say(connection: socket.socket, words: bytes) -> bytes:
    connection.sendall(words + b"\n")
    return connection.recv(100).strip()


def test_nothing_comes_through_a_line_that_is_cut(line: Line) -> None:
    with socket.create_connection(("127.0.0.1", line.port), timeout=5) as before:
        assert say(before, b"one") == b"one"
        line.cut()
        before.settimeout(0.5)
        with pytest.raises(TimeoutError):
            say(before, b"two")
        with socket.create_connection(("127.0.0.1", line.port), timeout=0.5) as during, pytest.raises(TimeoutError):
            say(during, b"three")
        line.mend()
        before.settimeout(5)
        assert before.recv(100) == b"", "it has ended, and what was in it is lost"
    with socket.create_connection(("127.0.0.1", line.port), timeout=5) as after:
        assert say(after, b"four") == b"four"


@needs_compiler
def test_a_clock_jumps_while_a_process_runs_and_time_passes_steadily(tmp_path: Path) -> None:
    code = (
        "import time, datetime, sqlite3, sys\n"
        "db = sqlite3.connect(':memory:')\n"
        "for line in sys.stdin:\n"
        "    now = datetime.datetime.now().timestamp()\n"
        "    sql = float(db.execute(\"select unixepoch('now')\").fetchone()[0])\n"
        "    print(time.time(), now, sql, time.monotonic(), flush=True)\n"
    )
    made = Clock(tmp_path)
    command, environment = [sys.executable, "-c", code], {**os.environ, **made.environment}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shown:
        assert shown.stdin
        assert shown.stdout

        def look() -> list[float]:
            assert shown.stdin
            assert shown.stdout
            print(file=shown.stdin, flush=True)
            return [float(each) for each in shown.stdout.readline().split()]

        first = look()
        for seconds in (3600, -3600, 0):
            made.set(seconds)
            later = look()
            passed = later[3] - first[3]
            assert 0 <= passed < 5
            jumps = [after - before - passed for before, after in zip(first[:3], later[:3], strict=True)]
            assert jumps == pytest.approx([seconds] * 3, abs=1.5)
        shown.stdin.close()


def test_without_a_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ProcessError, match="install gcc"):
        Clock(tmp_path)


@needs_mount
def test_a_disk_is_full_until_it_is_over(tmp_path: Path) -> None:
    folder, over, began = tmp_path / "small", threading.Event(), threading.Event()
    with small_disk(folder, 8):
        (folder / "mine").write_bytes(b"x" * 2**20)
        filling = threading.Thread(target=fill, args=(folder, over, 60.0))
        filling.start()
        while shutil.disk_usage(folder).free:
            assert not began.wait(0.01)
        (folder / "mine").unlink()  # what is given back is taken, too
        while shutil.disk_usage(folder).free:
            began.wait(0.01)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            (folder / "more").write_bytes(b"x" * 2**13)
        over.set()
        filling.join()
        assert shutil.disk_usage(folder).free > 7 * 2**20
    assert list(folder.iterdir()) == []


def test_who_may_not_mount_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = subprocess.CompletedProcess([], 1, "", "must be superuser")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: refused)
    with pytest.raises(ProcessError, match="must be superuser; run it as root"), small_disk(tmp_path / "small"):
        pass
