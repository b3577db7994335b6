"""The demonstration: a coordinator and three institutions as separate daemons on this machine, over real TLS."""

import math
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from client.data.holdout import key_of_seed, write_key
from client.keys import generate_node_key, read_private_key
from server.enrolment.keys import read_public_key
from server.home import ServerHome, init_home, read_settings
from server.release.making import release_run
from server.runs.steering import follow, start
from server.service.operator import OperatorClient
from shared.errors import CollegiumError, ProcessError, joined
from shared.federation import Federation, federation_toml
from shared.nodekeys import line_of
from shared.process.files import private_folder
from shared.process.supervisor import Child, supervise
from simulations.experiment import Experiment, load_experiment
from simulations.results import Row, rows_of_run
from simulations.samples import SAMPLES

CONFIG = Path(__file__).parent / "configs" / "demo.toml"
START_SECONDS = 120.0
"""How long the daemons may take to come up on a slow machine."""
LISTENING = range(20_000, 32_768)
"""Ports of which Linux gives none to an outgoing connection, which might take it before a daemon listens there."""
Announce = Callable[[str], None]


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration showed."""

    rows: Sequence[Row]
    bundle: Path
    seconds: float


def run_demo(workdir: Path, announce: Announce, *, compare: bool = False) -> DemoResult:
    """Deploy the demonstration federation under `workdir`, train, and release.

    Args:
        workdir: An empty folder.
        announce: Told of every stage.
        compare: Also train on all institutions' records pooled, and show those scores.

    Raises:
        CollegiumError: A daemon did not come up or the run failed; nothing is left running.
    """
    began = time.perf_counter()
    experiment = load_experiment(CONFIG, data=SAMPLES)
    home, run_id = deploy(experiment, workdir, announce)
    announce("5/5  Releasing the best round")
    bundle = release_run(home.root, run_id, workdir / "bundle")
    pooled = None
    if compare:
        announce("For comparison: training centrally on the pooled records")
        pooled = _centralised(experiment, announce)
    rows = rows_of_run(home.root, run_id, centralised=pooled)
    return DemoResult(rows, bundle, time.perf_counter() - began)


def deploy(experiment: Experiment, workdir: Path, announce: Announce) -> tuple[ServerHome, str]:
    """Run an experiment's federation once with real daemons under `workdir`, and stop them.

    Returns:
        The coordinator's folder and the id of the completed run.

    Raises:
        CollegiumError: A daemon did not come up or the run failed; nothing is left running.
    """
    with standing(experiment, workdir, announce) as (home, check):
        announce("4/5  Training together; no text leaves an institution; adapters, heads, scores and counts do")
        run_id = start(home.root).run_id
        outcome = follow(home.root, run_id, announce, seen=0, check=check)
    if outcome["status"] != "completed":
        raise ProcessError(f"Expected the run to complete, but it ended as {outcome['status']}: {outcome['reason']}")
    return home, run_id


@dataclass(frozen=True)
class Surroundings:
    """What lies between and around the daemons: nothing, unless a test puts it there."""

    port: Callable[[str, int], int] = lambda name, public: public
    """Where an institution finds the coordinator's public port; called once for each."""
    environment: Callable[[str], Mapping[str, str]] = lambda name: {}
    """Variables of a daemon's processes, by its folder's name."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """More of the coordinator's server.toml."""


@contextmanager
def standing(
    experiment: Experiment, workdir: Path, announce: Announce, around: Surroundings = Surroundings()
) -> Iterator[tuple[ServerHome, Callable[[], None]]]:
    """An experiment's federation with real daemons under `workdir`, while the block lasts.

    Args:
        experiment: The federation, and its institutions' data.
        workdir: For the daemons' folders.
        announce: Told of every stage.
        around: What lies around the daemons.

    Yields:
        The coordinator's folder, and a function that raises if a daemon has given up.

    Raises:
        CollegiumError: A daemon did not come up; nothing is left running.
    """
    announce("1/5  Making the coordinator's certificates and token, and a key for every institution")
    for name in experiment.institutions:
        private_folder(workdir / name)
        generate_node_key(workdir / name / "node.key")
    home = _make_coordinator(workdir, _agreement(workdir, experiment.federation), around.settings)
    public = read_settings(home).public_port
    files = [
        _make_institution(workdir, home, experiment, name, around.port(name, public))
        for name in experiment.institutions
    ]
    announce("2/5  Starting the coordinator: public door over TLS, operator door on loopback")
    with _running([_daemon("coordinator", workdir, around, "server", "up", str(home.root))], announce) as check:
        _wait_for_coordinator(home, check)
        announce("3/5  Enrolling and starting " + joined(experiment.institutions) + ", one daemon each")
        _enrol(home, workdir, experiment)
        daemons = [_daemon(file.parent.name, workdir, around, "client", "up", str(file)) for file in files]
        with _running(daemons, announce) as check_clients:
            yield home, check_clients


def _agreement(workdir: Path, federation: Federation) -> Federation:
    """The federation, with the institutions' own keys where it names keys."""
    agreed = federation.secure_aggregation
    if agreed is None:
        return federation
    keys = {name: line_of(read_private_key(workdir / name / "node.key").public_key()) for name in agreed.keys}
    return federation.model_copy(update={"secure_aggregation": agreed.model_copy(update={"keys": keys})})


def _make_coordinator(workdir: Path, federation: Federation, settings: Mapping[str, str]) -> ServerHome:
    public, operator = free_ports(2)
    home = init_home(
        workdir / "coordinator", hosts=["localhost", "127.0.0.1"], public_port=public, operator_port=operator
    )
    home.federation_file.write_text(federation_toml(federation), encoding="utf-8")
    file = home.settings_file
    file.write_text(f"{tomli_w.dumps(settings)}{file.read_text(encoding='utf-8')}", encoding="utf-8")
    return home


def _make_institution(workdir: Path, home: ServerHome, experiment: Experiment, name: str, port: int) -> Path:
    folder = workdir / name
    # The split of the simulator, so that training centrally and in one process can be compared.
    write_key(folder / "state", key_of_seed(experiment.federation.seed))
    (folder / "federation.toml").write_bytes(home.federation_file.read_bytes())
    (folder / "ca.crt").write_bytes(home.ca_certificate.read_bytes())
    data = {
        task: {split: str(path) for split in ("train", "validation", "test") if (path := getattr(source, split))}
        for task, source in experiment.institutions[name].items()
    }
    institution = {
        "name": name,
        "server": {"address": f"127.0.0.1:{port}"},
        "data": data,
        "runtime": {"threads": threads_for(len(experiment.institutions))},
    }
    file = folder / "institution.toml"
    file.write_text(tomli_w.dumps(institution), encoding="utf-8")
    return file


def _enrol(home: ServerHome, workdir: Path, experiment: Experiment) -> None:
    with OperatorClient(home) as operator:
        for name in experiment.institutions:
            operator.register_node(name, read_public_key(workdir / name / "node.pub"))


def _wait_for_coordinator(home: ServerHome, check: Callable[[], None]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        check()
        try:
            with OperatorClient(home) as operator:
                operator.nodes()
            return
        except CollegiumError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def _daemon(name: str, workdir: Path, around: Surroundings, *verb: str) -> Child:
    argv = [sys.executable, "-m", "collegium", *verb]
    return Child(name=name, argv=argv, log=workdir / "logs" / f"{name}.log", env=around.environment(name))


@contextmanager
def _running(children: Sequence[Child], announce: Announce) -> Iterator[Callable[[], None]]:
    """Keep children running inside the block; the yielded function raises if one has given up."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def keep() -> None:
        try:
            supervise(children, stop=stop, announce=announce)
        except CollegiumError as error:
            failures.append(error)

    thread = threading.Thread(target=keep, name="demo-supervisor")
    thread.start()

    def check() -> None:
        if failures:
            raise failures[0]

    try:
        yield check
    finally:
        stop.set()
        thread.join()


def _centralised(experiment: Experiment, announce: Announce) -> dict[str, dict[str, float]]:
    from shared.adapter import get_state
    from shared.model.multitask import build_model
    from simulations.baselines import centralised
    from simulations.experiment import open_sites
    from simulations.simulate import quarters

    model = build_model(experiment.federation)
    sites = open_sites(experiment, model)
    return centralised(model, get_state(model), sites, experiment.federation, [quarters(announce)])


def threads_for(institutions: int) -> int:
    """CPU threads for each of several institutions that train on this machine at once."""
    return math.ceil((os.cpu_count() or 1) / institutions)


def free_ports(count: int) -> list[int]:
    """Loopback ports that nothing uses now."""
    ports: list[int] = []
    while len(ports) < count:
        port = secrets.choice(LISTENING)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports += [port] if port not in ports else []
    return ports


def as_json(result: DemoResult) -> dict[str, Any]:
    """The demonstration's outcome as one JSON object."""
    return {
        "rows": [row.as_dict() for row in result.rows],
        "bundle": str(result.bundle),
        "seconds": round(result.seconds, 1),
    }
