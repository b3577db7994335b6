"""Many institutions at one door: seconds and memory of rounds in which everybody sends and gets a state.

    python -m simulations.benchmarks.door.nodes --nodes 1000 --rounds 5

The coordinator is real (`server.service.superlink`), and so is its side of a round (`server.rounds.asking`); what is
asked and answered goes over TLS on loopback, signed by real keys, each from an address of its own. There is no model.
"""

import multiprocessing
import os
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from server.home import ServerHome, read_settings
from server.rounds.asking import ask, online
from server.service.grid import carrying
from server.service.operator import OperatorClient
from server.service.replies import replies_held
from shared.flower.grid import HttpGrid
from shared.flower.messages import RegisterNodeRequest, SendTaskHeartbeatRequest
from shared.process.console import announce, print_table
from shared.protocol import TrainRequest
from simulations.attacks.coordinator import new_home, running, serving
from simulations.benchmarks.door import light
from simulations.benchmarks.measured import Asked, Cell, Findings, Table

COUNTS = (30, 100, 300, 1000)
"""Of institutions, in `collegium bench door`."""
KILOBYTES = 300
ONLINE_SECONDS, ROUND_SECONDS = 600.0, 3600.0
TICKS = os.sysconf("SC_CLK_TCK")


def main(
    nodes: Annotated[int, typer.Option(min=1)] = 1000,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    kilobytes: Annotated[int, typer.Option(min=1, help="Of a state and of an update.")] = KILOBYTES,
) -> None:
    """Measure, and print a table."""
    rows = measure(nodes, rounds, kilobytes * 1000, announce)
    print_table(list(rows[0]), [list(row.values()) for row in rows])


def findings(asked: Asked) -> Findings:
    """The rounds of ever more institutions, after the first one of each; the median of as many as there are turns."""
    rows: list[list[Cell]] = []
    for count in (2,) if asked.small else COUNTS:
        rounds = measure(count, 1 + asked.turns, KILOBYTES * 1000)[1:]
        wall, cpu, grid = (
            statistics.median(row[name] for row in rounds) for name in ("seconds", "coordinator_cpu", "grid_cpu")
        )
        repeated = rounds[-1]["repeated"]
        rows.append([count, wall, cpu, grid, (cpu + grid) / count, rounds[-1]["peak_mb"], repeated])
    columns = [
        "institutions",
        "seconds a round",
        "SuperLink, CPU s",
        "the run, CPU s",
        "CPU s an institution",
        "SuperLink at its peak, MB",
        "requests made again",
    ]
    return Findings(tables=[Table(title=f"Rounds of {KILOBYTES} kB each way", columns=columns, rows=rows)])


def measure(nodes: int, rounds: int, size: int, tell: Callable[[str], None] = announce) -> list[dict[str, Any]]:
    """One row per round, after one in which everybody comes.

    Returns:
        `round`; `seconds`; `answers`, good ones; `coordinator_cpu` and `grid_cpu`, CPU seconds of the SuperLink and of
        the process that asks; `coordinator_mb`, its resident memory after the round; `peak_mb`, its peak so far;
        `repeated`, requests that institutions had to make again so far.
    """
    with tempfile.TemporaryDirectory(prefix="collegium-nodes-") as folder:
        home = new_home(Path(folder) / "coordinator")
        with serving(home) as process, running(home) as grid, _beating(grid), replies_held(str(home.root)) as look:
            carried = carrying(grid)
            tell(f"Enrolling {nodes} institutions")
            ids = enrol(home, nodes)
            with _living(home, ids, size) as told:
                began = time.monotonic()
                _wait_online(grid, nodes)
                tell(f"All are online after {time.monotonic() - began:.0f} s")
                rows = []
                for number in range(1, rounds + 1):
                    before, began = _used(process.pid), time.perf_counter()
                    own = time.process_time()
                    request = TrainRequest(
                        spec_digest="d" * 64, run="r1", round=number, rounds=rounds, state=os.urandom(size)
                    )
                    requests = {light.name_of(index): request for index in range(nodes)}
                    asked = ask(
                        carried,
                        requests,
                        online(grid),
                        group=str(number),
                        deadline_seconds=ROUND_SECONDS,
                        quorum=nodes,
                        look=look,
                    )
                    answers = [answer.status for answer in asked]
                    cpu, resident, peak = _used(process.pid)
                    rows.append(
                        {
                            "round": number,
                            "seconds": time.perf_counter() - began,
                            "answers": answers.count("ok"),
                            "coordinator_cpu": cpu - before[0],
                            "grid_cpu": time.process_time() - own,
                            "coordinator_mb": resident,
                            "peak_mb": peak,
                            "repeated": sum(told().values()),
                        }
                    )
                    tell(f"{rows[-1]} {told()}")
    return rows


def enrol(home: ServerHome, nodes: int) -> list[int]:
    """Enrol light institutions; their numbers at the coordinator."""
    with OperatorClient(home) as operator:
        keys = ((light.name_of(number), light.public_key_of(number)) for number in range(nodes))
        # `register_node` looks at all nodes first.
        return [
            operator._client.RegisterNode(RegisterNodeRequest(name=name, public_key=key)).node_id for name, key in keys
        ]


@contextmanager
def _living(home: ServerHome, ids: list[int], size: int) -> Iterator[Callable[[], dict[str, int]]]:
    """All institutions in a process of their own; yields what had to be repeated."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the process inherits it
    spawning = multiprocessing.get_context("spawn")
    queue: Any = spawning.Queue()
    address = f"https://127.0.0.1:{read_settings(home).public_port}"
    process = spawning.Process(target=light.live, args=(ids, address, home.ca_certificate, size, queue), daemon=True)
    process.start()
    last: dict[str, int] = {}

    def told() -> dict[str, int]:
        nonlocal last
        while not queue.empty():
            last = queue.get()
        if not process.is_alive():
            raise SystemExit("The institutions have ended.")
        return last

    try:
        yield told
    finally:
        process.terminate()
        process.join()


@contextmanager
def _beating(grid: HttpGrid) -> Iterator[None]:
    """The run's heartbeats, while the block lasts."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(10.0):
            grid._runtime_client.SendTaskHeartbeat(SendTaskHeartbeatRequest())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _wait_online(grid: HttpGrid, nodes: int) -> None:
    end = time.monotonic() + ONLINE_SECONDS
    while len(present := online(grid)) < nodes:
        if time.monotonic() > end:
            raise SystemExit(f"{len(present)} of {nodes} came online in {ONLINE_SECONDS:.0f} s.")
        time.sleep(2.0)


def _used(pid: int) -> tuple[float, float, float]:
    """CPU seconds of a process so far, its resident memory and the peak of that, in MB."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Vm")
    )
    return (int(stat[11]) + int(stat[12])) / TICKS, _mb(status["VmRSS"]), _mb(status["VmHWM"])


def _mb(kilobytes: str) -> float:
    return int(kilobytes.split()[0]) / 1000


if __name__ == "__main__":
    typer.run(main)
