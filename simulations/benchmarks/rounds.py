"""How long a round takes in which nobody trains: Collegium beside stock Flower, in turns on one machine.

Each side is a coordinator and two institutions on loopback. A round is one train message and one evaluate message to
each. Collegium's side is deployed as `collegium demo` does (TLS, node keys, checks, checkpoints), and its institutions
hold MiniLM-L6 with its LoRA adapter and two heads. Flower's side is FedAvg as it comes, without TLS and keys, which
flatters it, once with the same model, which each message's process loads as in Flower's own examples, and once with a
thousand numbers and no model. All are real daemons; their first round is not counted, and figures are medians of the
others in seconds by the clock, which is what a round without work consists of: waiting. Ours is set beside both, so
that the ratio to the trivial one has a model on our side alone.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import tomli_w

from server.opening import open_store
from server.store import rounds
from shared.federation import Federation
from shared.process.flower import flower_environment
from simulations.benchmarks.measured import Asked, Comparison, Findings, Goal, in_turns
from simulations.demo import CONFIG, deploy, free_ports
from simulations.experiment import Experiment, load_experiment
from simulations.samples import SAMPLES

STOCK_SERVER = """
import json, os, time
from pathlib import Path
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()
FOLDER = Path(os.environ["BENCHMARK_FOLDER"])


class Timed(FedAvg):
    marks = []

    def configure_train(self, server_round, arrays, config, grid):
        self.marks.append(time.perf_counter())
        return super().configure_train(server_round, arrays, config, grid)


@app.main()
def main(grid: Grid, context: Context) -> None:
    from stockflower.model import get

    arrays = ArrayRecord({name: Array(array) for name, array in get().items()})
    nodes = int(context.run_config["nodes"])
    strategy = Timed(min_available_nodes=nodes, min_train_nodes=nodes, min_evaluate_nodes=nodes)
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=int(context.run_config["rounds"]))
    marks = [*strategy.marks, time.perf_counter()]
    (FOLDER / "seconds.json").write_text(json.dumps([b - a for a, b in zip(marks, marks[1:])]))
"""
STOCK_CLIENT = """
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from stockflower.model import get, put

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    put({name: array.numpy() for name, array in message.content["arrays"].items()})
    arrays = ArrayRecord({name: Array(array) for name, array in get().items()})
    return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    put({name: array.numpy() for name, array in message.content["arrays"].items()})
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "score": 0.5})}), reply_to=message)
"""
BERT = """
import os
from pathlib import Path
from shared.adapter import get_state, set_state
from shared.federation import load_federation
from shared.model.multitask import build_model

model = build_model(load_federation(Path(os.environ["BENCHMARK_FOLDER"]) / "federation.toml"))


def get():
    return get_state(model)


def put(state):
    set_state(model, state)
"""
TRIVIAL = """
import numpy as np

model = {"weights": np.zeros(1000, np.float32)}


def get():
    return model


def put(state):
    model.update(state)
"""
STOCK_PROJECT = {
    "build-system": {"requires": ["hatchling"], "build-backend": "hatchling.build"},
    "project": {"name": "stockflower", "version": "1.0.0", "description": "Empty rounds", "dependencies": ["flwr"]},
    "tool": {
        "flwr": {
            "app": {
                "publisher": "benchmark",
                "components": {"serverapp": "stockflower.server:app", "clientapp": "stockflower.client:app"},
                "config": {"rounds": 4, "nodes": 2},
            }
        }
    },
}


def findings(asked: Asked) -> Findings:
    """Both comparisons: our rounds beside Flower's with no model, and with this one."""
    experiment = empty_experiment(2, institutions=1) if asked.small else empty_experiment(5)
    kinds = {"stock Flower, a thousand numbers": TRIVIAL, "stock Flower, the same model": BERT}
    if asked.small:
        del kinds["stock Flower, the same model"]

    def ours() -> float:
        with tempfile.TemporaryDirectory(prefix="collegium-rounds-") as folder:
            return statistics.median(our_rounds(experiment, Path(folder))[1:])

    def stock(model: str) -> float:
        with tempfile.TemporaryDirectory(prefix="collegium-rounds-") as folder:
            return statistics.median(stock_rounds(experiment.federation, Path(folder), 2, model)[1:])

    figures = in_turns({"ours": ours} | {name: partial(stock, model) for name, model in kinds.items()}, asked.turns)
    goals = dict(zip(kinds, (0.2, 0.05), strict=False))
    return Findings(
        comparisons=[
            Comparison(
                subject="a round without training",
                against=name,
                unit="seconds",
                ours=figures["ours"],
                theirs=figures[name],
                goal=Goal(kind="at most", value=goals[name]),
            )
            for name in kinds
        ]
    )


def empty_experiment(number: int, institutions: int = 2) -> Experiment:
    """So many institutions of the demonstration, which hold little and never train, and so many rounds."""
    demo = load_experiment(CONFIG, data=SAMPLES, limit=8)
    names = list(demo.institutions)[:institutions]
    federation = demo.federation.model_copy(
        update={
            "training": demo.federation.training.model_copy(update={"epochs_per_round": 0}),
            "rounds": demo.federation.rounds.model_copy(
                update={"count": number, "institutions": tuple(names), "quorum": institutions}
            ),
        }
    )
    return demo.model_copy(
        update={"federation": federation, "institutions": {name: demo.institutions[name] for name in names}}
    )


def our_rounds(experiment: Experiment, folder: Path) -> list[float]:
    """Seconds of each round."""
    home, run_id = deploy(experiment, folder, lambda _: None)
    with open_store(home.root) as store:
        return [row["seconds"] for row in store.rows(rounds, run_id)]


def stock_rounds(federation: Federation, folder: Path, number: int, model: str = BERT) -> list[float]:
    """Seconds of each round of stock Flower: `flower-superlink`, a `flower-supernode` each, `flwr run`."""
    nodes = len(federation.rounds.institutions)
    app = folder / "app"
    (app / "stockflower").mkdir(parents=True)
    (app / "pyproject.toml").write_text(tomli_w.dumps(STOCK_PROJECT))
    for name, code in (("__init__", ""), ("server", STOCK_SERVER), ("client", STOCK_CLIENT), ("model", model)):
        (app / "stockflower" / f"{name}.py").write_text(code)
    (folder / "federation.toml").write_text(tomli_w.dumps(federation.model_dump(mode="json", exclude_none=True)))
    port, health, *ports = free_ports(2 + nodes)
    home = folder / "flwr"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    environment = flower_environment(home) | {"BENCHMARK_FOLDER": str(folder)}
    link = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port)]
    link += ["--health-server-address", f"127.0.0.1:{health}", "--database", str(folder / "state.db")]
    node = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--host", "127.0.0.1", "--port"]
    with _started([link, *[[*node, str(own)] for own in ports]], environment, folder):
        time.sleep(8)
        run = ["flwr", "run", str(app), "here", "--run-config", f"rounds={number} nodes={nodes}"]
        done = subprocess.run(run, env=_full(environment), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"flwr run failed: {done.stdout}{done.stderr}")
        deadline = time.monotonic() + 300 * number
        while not (folder / "seconds.json").exists():
            if time.monotonic() > deadline:
                logs = "\n".join(file.read_text()[-2000:] for file in folder.glob("*.log"))
                raise SystemExit(f"stock Flower did not finish:\n{logs}")
            time.sleep(0.5)
        time.sleep(0.5)
    values: list[float] = json.loads((folder / "seconds.json").read_text())
    return values


@contextmanager
def _started(commands: list[list[str]], environment: dict[str, str], folder: Path) -> Iterator[None]:
    processes = []
    try:
        for index, command in enumerate(commands):
            with (folder / f"{index}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(command, env=_full(environment), stdout=log, stderr=log, start_new_session=True)
                )
            time.sleep(3 if index == 0 else 0)
        yield
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=15)
            process.kill()


def _full(environment: dict[str, str]) -> dict[str, str]:
    scripts = str(Path(sys.executable).parent)
    return {**os.environ, **environment, "PATH": f"{scripts}:{os.environ['PATH']}"}
