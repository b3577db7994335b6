"""A served model at 1, 8 and 64 clients, beside a plain loop over transformers' pipeline.

The texts are those of the test split. Our side is `collegium serve` in a process of its own, with one thread for its
products and `precision = "auto"`; the clients are Locust's (`pip install 'collegium[bench]'`), in another process: each
has a connection, and asks for the next text when it has its answer. The other side is `pipeline("text-classification")`
over a `BertForSequenceClassification` of the same weights, called text by text in this process, on one thread. Both are
timed by the clock, since the server's queue is what is measured. Latencies are those of all turns together.
"""

import itertools
import tempfile
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shared.bundle import write_bundle
from simulations.benchmarks.measured import Asked, Cell, Comparison, Findings, Goal, Table, in_turns
from simulations.benchmarks.serving.client import ask, server
from simulations.benchmarks.training.scene import BACKBONE, MAX_LENGTH, TASK, Scene, open_scene

CLIENTS = (1, 8, 64)
TEXTS, SMALL = {1: 200, 8: 800, 64: 2000}, 16
LOOP = "transformers' pipeline, a loop"
PERCENTILES = (50, 95, 99)


def findings(asked: Asked) -> Findings:
    """Every number of clients and the loop in every turn."""
    scene = open_scene(asked, SMALL, tested=SMALL if asked.small else None)
    texts = [record["text"] for record in scene.data["test"].records]
    pipe = pipeline(scene)
    latencies: dict[int, list[float]] = {clients: [] for clients in CLIENTS}
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(
            Path(folder) / "bundle", scene.federation, scene.initial, {}, metrics={"settings": {}}, readme="untrained"
        )
        with server(bundle, 1) as (url, _):

            def served(clients: int) -> float:
                asked_for = some(texts, SMALL if asked.small else TEXTS[clients])
                seconds, each = ask(url, f"/v1/predict/{TASK}", asked_for, clients)
                latencies[clients] += each
                return len(asked_for) / seconds

            def looped() -> float:
                asked_for = some(texts, SMALL if asked.small else TEXTS[1])
                started = time.perf_counter()
                for text in asked_for:
                    pipe(text)
                return len(asked_for) / (time.perf_counter() - started)

            served(8), looped()  # the first are slower
            latencies = {clients: [] for clients in CLIENTS}
            sides = {f"{clients} clients": partial(served, clients) for clients in reversed(CLIENTS)}
            figures = in_turns({**sides, LOOP: looped}, asked.turns)
    comparisons = [
        Comparison(
            subject=f"collegium serve, {name}",
            against=LOOP,
            unit="texts a second",
            ours=figures[name],
            theirs=figures[LOOP],
            goal=Goal(kind="at least", value=3) if name == "64 clients" else None,
        )
        for name in sides
    ]
    rows: list[list[Cell]] = [
        [clients, *(round(1000 * float(np.percentile(each, share)), 1) for share in PERCENTILES)]
        for clients, each in latencies.items()
    ]
    columns = ["clients", *(f"p{share}" for share in PERCENTILES)]
    return Findings(
        comparisons=comparisons, tables=[Table(title="Milliseconds of an answer", columns=columns, rows=rows)]
    )


def some(texts: Sequence[str], count: int) -> list[str]:
    """So many texts, from the start again when there are no more."""
    return list(itertools.islice(itertools.cycle(texts), count))


def pipeline(scene: Scene) -> Any:
    """Transformers' own over the same backbone; its head is as untrained as ours."""
    from transformers import AutoTokenizer, BertForSequenceClassification
    from transformers import pipeline as make

    from shared.model.backbone import locate, quiet

    folder = locate(BACKBONE)
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        model = BertForSequenceClassification.from_pretrained(folder, num_labels=len(scene.labels))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        pipe = make("text-classification", model=model, tokenizer=tokenizer)
    return partial(pipe, truncation=True, max_length=MAX_LENGTH)
