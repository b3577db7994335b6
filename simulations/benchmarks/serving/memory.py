"""A server's memory over 50,000 requests.

A tiny model (2 layers, 32 wide), so that requests and not products take the time: 16 clients of Locust's ask for texts
of 1 to 60 words, no two alike. The server's resident memory is read after every thousand answers. What is told is how
much it grew from the first fifth on, when all that is made once has been made.
"""

import tempfile
from pathlib import Path

import numpy as np

from shared.adapter import get_state
from shared.bundle import write_bundle
from shared.model.multitask import build_model
from shared.process.memory import resident
from simulations.attacks.stage import tiny_federation, write_tiny_bert
from simulations.benchmarks.measured import Asked, Cell, Curves, Findings, Table
from simulations.benchmarks.serving.client import ask, server

REQUESTS, SMALL, STEP, CLIENTS = 50_000, 100, 1000, 16


def findings(asked: Asked) -> Findings:
    """The curve, and its growth."""
    count, step = (SMALL, SMALL // 5) if asked.small else (REQUESTS, STEP)
    rng, megabytes = np.random.default_rng(0), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        (bert := Path(folder) / "bert").mkdir()
        federation = tiny_federation(write_tiny_bert(bert))
        state = get_state(build_model(federation))
        bundle = write_bundle(
            Path(folder) / "bundle", federation, state, {}, metrics={"settings": {}}, readme="untrained"
        )
        with server(bundle, 1) as (url, process):
            for _ in range(0, count, step):
                texts = [" ".join(map(str, rng.integers(10**6, size=rng.integers(1, 61)))) for _ in range(step)]
                ask(url, "/v1/predict/clauses", texts, CLIENTS)
                megabytes.append(resident(process) / 1e6)
    early = megabytes[len(megabytes) // 5 :]
    rows: list[list[Cell]] = [
        [
            f"{count:,}",
            round(megabytes[0], 1),
            round(early[0], 1),
            round(megabytes[-1], 1),
            round(max(early) - early[0], 1),
        ]
    ]
    columns = ["requests", "after the first thousand", "after a fifth", "at the end", "most growth since"]
    return Findings(
        tables=[Table(title="Megabytes of the server", columns=columns, rows=rows)],
        curves=Curves(along=f"{step} requests", unit="MB", values={"collegium serve": megabytes}),
    )
