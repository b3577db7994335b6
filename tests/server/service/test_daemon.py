import contextlib
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import server
from server.bundle import PYPROJECT
from server.home import ServerHome, read_settings
from server.service.daemon import serve
from server.service.operator import OperatorClient
from shared.errors import CollegiumError, ConfigError, ConnectionFailedError, ProcessError
from shared.flower.bundle import build_fab_from_files
from shared.flower.crypto import generate_key_pairs, public_key_to_bytes


class Daemon:
    """`serve` in a thread, and what it announced."""

    def __init__(self, home: ServerHome) -> None:
        self.stop = threading.Event()
        self.lines: list[str] = []
        self.failure: CollegiumError | None = None
        self._home = home
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            serve(self._home, stop=self.stop, announce=self.lines.append)
        except CollegiumError as error:
            self.failure = error

    def wait_for(self, words: str, seconds: float = 120.0) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.failure is None:
            for line in self.lines:
                if words in line:
                    return line
            time.sleep(0.05)
        raise AssertionError(f"{words!r} was not announced: {self.lines}, {self.failure}")


@contextlib.contextmanager
def running(home: ServerHome) -> Iterator[Daemon]:
    daemon = Daemon(home)
    daemon.thread.start()
    try:
        yield daemon
    finally:
        daemon.stop.set()
        daemon.thread.join(timeout=30)
        assert not daemon.thread.is_alive()


def probe_bundle() -> bytes:
    """A bundle as ours in form, whose ServerApp prints what Collegium's will need."""
    serverapp = """
import os, server
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    print("home=" + os.environ["COLLEGIUM_SERVER_HOME"], "server=" + server.__file__, flush=True)
"""
    clientapp = "from flwr.clientapp import ClientApp\n\napp = ClientApp()\n"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        bundle, _ = build_fab_from_files(
            {
                "pyproject.toml": PYPROJECT.encode(),
                "collegium_serverapp.py": serverapp.encode(),
                "collegium_clientapp.py": clientapp.encode(),
            }
        )
    return bundle


def processes_of(home: ServerHome) -> dict[int, str]:
    """Ids and command lines of the processes that name the folder."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(home.root) in command:
                found[int(entry.name)] = command
    return found


@pytest.mark.slow
def test_up_serves_runs_the_serverapp_and_leaves_nothing(home: ServerHome) -> None:
    with running(home) as daemon:
        line = daemon.wait_for("is up")
        assert line.count(f"localhost:{read_settings(home).public_port}") == 1
        assert home.lock_file.read_text() == f"{os.getpid()}\n"
        assert any("server.service.superlink" in command for command in processes_of(home).values())

        with pytest.raises(ConfigError, match=f"process {os.getpid()} already serves it"):
            serve(home, stop=threading.Event(), announce=print)

        with OperatorClient(home) as client:
            run_id = client.start_run(probe_bundle(), {})
            log = "".join(client.run_log(run_id))
            assert client.run_status(run_id).completed, log
            assert f"home={home.root.resolve()}" in log
            assert f"server={server.__file__}" in log
    assert daemon.failure is None
    assert processes_of(home) == {}
    assert home.lock_file.read_text() == ""


@pytest.mark.slow
def test_a_killed_superlink_comes_back_and_still_knows_its_nodes(home: ServerHome) -> None:
    with running(home) as daemon:
        daemon.wait_for("is up")
        with OperatorClient(home) as client:
            node_id = client.register_node("hospital", public_key_to_bytes(generate_key_pairs()[1]))
            (victim,) = [
                number for number, command in processes_of(home).items() if "server.service.superlink" in command
            ]
            os.kill(victim, signal.SIGKILL)
            daemon.wait_for("superlink was killed by SIGKILL")
            end = time.monotonic() + 30
            while time.monotonic() < end:
                with contextlib.suppress(ConnectionFailedError):
                    assert [node.node_id for node in client.nodes()] == [node_id]
                    break
                time.sleep(0.1)
            assert [node.node_id for node in client.nodes()] == [node_id]
    assert daemon.failure is None
    assert processes_of(home) == {}


@pytest.mark.parametrize("setting", ["public_port", "operator_port"])
def test_a_port_in_use_ends_it_at_once(home: ServerHome, setting: str) -> None:
    with (
        socket.create_server(("127.0.0.1", getattr(read_settings(home), setting))),
        pytest.raises(ConnectionFailedError, match=setting),
    ):
        serve(home, stop=threading.Event(), announce=print)
    assert processes_of(home) == {}


@pytest.mark.slow
def test_a_damaged_database_ends_it_with_the_reason(home: ServerHome) -> None:
    home.superlink_database.write_bytes(b"no database" * 1000)
    with pytest.raises(ProcessError, match=r"superlink\.db"):
        serve(home, stop=threading.Event(), announce=print)
    assert processes_of(home) == {}
