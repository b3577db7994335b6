"""One real deployment for all tests that look at it, with a tap on every institution's wire."""

import asyncio
import os
import socket
import ssl
import threading
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomli_w

from client.institution import Data
from server.home import ServerHome, read_settings
from server.store import Store
from shared.federation import Federation
from simulations import demo
from simulations.benchmarks.coordinator import Seen, watched
from simulations.experiment import Experiment

OWN_LABELS = {"payment": "Zahlungsklausel", "liability": "Haftungsklausel"}
"""The law firm's own spelling of the federation's labels, in its files only."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """The coordinator's, empty."""
    with Store.open(f"sqlite:///{tmp_path / 'store.db'}", checkpoints=tmp_path / "checkpoints") as opened:
        yield opened


@pytest.fixture(scope="session")
def split_data(
    tmp_path_factory: pytest.TempPathFactory, write_records: Callable[..., Path]
) -> Callable[[str, Iterable[str]], dict[str, Data]]:
    """Writes the tiny records of an institution's tasks, each split into training, validation and test."""

    def write(name: str, tasks: Iterable[str]) -> dict[str, Data]:
        folder = tmp_path_factory.mktemp(name)
        return {
            task: Data(
                train=write_records(folder / f"{task}.train.jsonl", task, slice(0, None, 2)),
                validation=write_records(folder / f"{task}.validation.jsonl", task, slice(1, None, 4)),
                test=write_records(folder / f"{task}.test.jsonl", task, slice(1, None, 2)),
            )
            for task in tasks
        }

    return write


class Tap:
    """A proxy between one institution and the coordinator's public door that keeps every byte inside the TLS.

    It shows the coordinator's own certificate, so that both sides behave as without it. `sent` and `received` hold
    what went to and came from the coordinator, by connection.
    """

    def __init__(self, home: ServerHome) -> None:
        self.sent: list[bytearray] = []
        self.received: list[bytearray] = []
        self._upstream = read_settings(home).public_port
        self._shown = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._shown.load_cert_chain(home.server_certificate, home.server_key)
        self._trusted = ssl.create_default_context(cafile=str(home.ca_certificate))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.start()

    def stop(self) -> None:
        """Close the door."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        connections: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.add(asyncio.current_task())  # type: ignore[arg-type]
            await self._connect(reader, writer)

        server = await asyncio.start_server(accept, sock=self._listener, ssl=self._shown)
        await self._over.wait()
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await asyncio.sleep(0.1)  # transports close

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            above, up = await asyncio.open_connection(
                "127.0.0.1", self._upstream, ssl=self._trusted, server_hostname="localhost"
            )
        except OSError:  # the coordinator is not up yet, or not any more
            writer.close()
            return
        sent, received = bytearray(), bytearray()
        self.sent.append(sent)
        self.received.append(received)
        await asyncio.gather(_pump(reader, up, sent), _pump(above, writer, received), return_exceptions=True)


@pytest.fixture(scope="session")
def make_tap() -> Callable[[ServerHome], Tap]:
    """Makes a tap."""
    return Tap


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray) -> None:
    try:
        while data := await reader.read(65536):
            kept += data
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@pytest.fixture(scope="session")
def experiment(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_federation: Callable[..., Federation],
    write_records: Callable[..., Path],
) -> Experiment:
    """Two institutions that share one of three tasks."""
    folder = tmp_path_factory.mktemp("records")
    held = {"hospital": ("entities", "notes_qa"), "law_firm": ("clauses", "entities")}
    institutions = {
        name: {
            task: Data(
                train=write_records(folder / name / f"{task}.train.jsonl", task, slice(0, None, 2)),
                test=write_records(folder / name / f"{task}.test.jsonl", task, slice(1, None, 2)),
                rename={own: label for label, own in OWN_LABELS.items()} if task == "clauses" else {},
            )
            for task in tasks
        }
        for name, tasks in held.items()
    }
    for file in (folder / "law_firm").glob("clauses.*"):
        content = file.read_text(encoding="utf-8")
        for label, own in OWN_LABELS.items():
            content = content.replace(f'"{label}"', f'"{own}"')
        file.write_text(content, encoding="utf-8")
    return Experiment(federation=tiny_federation(rounds={"quorum": 2}), institutions=institutions)


@dataclass(frozen=True)
class Deployed:
    """A deployment that has completed a run, and a tap on each institution's wire."""

    folder: Path
    home: ServerHome
    run_id: str
    taps: Mapping[str, Tap]
    seen: Seen
    """Of the coordinator's processes, while they ran."""


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, experiment: Experiment) -> Deployed:
    """The experiment, run once by real daemons that have been stopped since."""
    folder, taps = tmp_path_factory.mktemp("deployed"), dict[str, Tap]()
    make = demo._make_institution

    def through_a_tap(workdir: Path, home: ServerHome, experiment: Experiment, name: str, port: int) -> Path:
        file = make(workdir, home, experiment, name, port)
        values = tomllib.loads(file.read_text(encoding="utf-8"))
        taps[name] = Tap(home)
        values["server"]["address"] = f"127.0.0.1:{taps[name].port}"
        for task, source in experiment.institutions[name].items():
            values["data"][task]["rename"] = source.rename
        file.write_text(tomli_w.dumps(values), encoding="utf-8")
        return file

    before = children()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "_make_institution", through_a_tap)
        patch.setenv("COLLEGIUM_LOG_FORMAT", "json")
        try:
            with watched(folder / "coordinator") as seen:
                home, run_id = demo.deploy(experiment, folder, lambda _: None)
        finally:
            for tap in taps.values():
                tap.stop()
    assert children() == before
    return Deployed(folder, home, run_id, taps, seen)


def children() -> set[int]:
    """Processes whose parent is this one."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.add(int(entry.parent.name))
    return found
