"""What `collegium optimize` makes of a bundle, beside the bundle: speed, size, score, and how far logits are off.

A bundle is trained on the records of one task, and each kind is made of it by `collegium optimize` as the command makes
it. All of them read the same texts in turns, encoded as sub-tokens before, with heads and all, in batches of 32 and, in
the table, one at a time; the figure is texts for each CPU second. Layers are chosen by fifty test records, and heads
are distilled on the training records without their labels; scores and the largest difference of a logit from the
bundle's are of 300 other test records. It needs `pip install 'collegium[optimize]'`.
"""

import json
import statistics
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from client.optimize.exporting import check_libraries
from client.optimize.given import read_given
from client.optimize.making import Wanted, optimize
from client.optimize.measuring import alone_and_together, said, size_of, speed
from client.train import trainer
from shared.adapter import get_state
from shared.bundle import write_bundle
from shared.inference.opening import open_model
from shared.model.deployed import deployed
from shared.tasks import Record
from simulations.benchmarks.measured import Asked, Cell, Comparison, Findings, Table, in_turns
from simulations.benchmarks.training.scene import TASK, Scene, open_scene

RECORDS, MAKING, TESTED, SMALL, EPOCHS, LAYERS = 400, 100, 300, 16, 4, 4
"""`MAKING` are the test records that `optimize` is given, `TESTED` those after them that are scored."""
TRAINING = {"learning_rate": 1e-3, "epochs_per_round": EPOCHS}
RELEASED = "as released"
KINDS = ("merged", "int8", "4 layers", "4 layers, distilled", "4 layers, distilled, int8", "ONNX", "ONNX, int8")


def findings(asked: Asked) -> Findings:
    """Each kind in every turn."""
    check_libraries()
    scene = open_scene(asked, SMALL if asked.small else RECORDS, training=TRAINING)
    trainer.train(scene.model, scene.examples, scene.federation.training, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        places = _made(scene, Path(folder), asked.small)
        models = {name: open_model(place) for name, place in places.items()}
        sizes = {name: size_of(place, scene.federation.backbone, None) for name, place in places.items()}
        given = read_given(models[RELEASED], {TASK: Path(folder) / "test.jsonl"})
    alone, together = alone_and_together(given)
    for model in models.values():
        model.infer(together[0])  # the first is slower
    figures = in_turns({name: partial(speed, model, together) for name, model in models.items()}, asked.turns)
    slow = in_turns({name: partial(speed, model, alone) for name, model in models.items()}, asked.turns)
    comparisons = [
        Comparison(
            subject=name, against=RELEASED, unit="texts per CPU second", ours=figures[name], theirs=figures[RELEASED]
        )
        for name in models
        if name != RELEASED
    ]
    rows: list[list[Cell]] = [
        [
            name,
            round(sizes[name] / 1e6, 1),
            round(statistics.median(slow[name]), 1),
            round(statistics.median(figures[name]), 1),
            round(scores[TASK], 3),
            float(f"{far:.2g}"),
        ]
        for name, (scores, far) in said(models, given).items()
    ]
    title = f"After {EPOCHS} epochs of {len(scene.examples)} records"
    columns = ["model", "MB", "texts/s, one at a time", "texts/s, batches of 32", "macro F1", "difference of logits"]
    return Findings(comparisons=comparisons, tables=[Table(title=title, columns=columns, rows=rows)])


def _made(scene: Scene, folder: Path, small: bool) -> dict[str, Path]:
    """The bundle, and what is made of it."""
    made = deployed(get_state(scene.model), {}, scene.federation)
    told = {"settings": dict[str, object]()}
    released = write_bundle(folder / "released", scene.federation, made.arrays, made.ranks, metrics=told, readme="")
    tests = scene.data["test"].records
    making, tested = (SMALL // 2, SMALL // 2) if small else (MAKING, TESTED)
    chosen = _write(folder / "making.jsonl", tests[:making])
    _write(folder / "test.jsonl", tests[making : making + tested])
    texts = _write(folder / "texts.jsonl", ({"text": record["text"]} for record in scene.data["train"].records))
    places = {RELEASED: released}
    for kind in KINDS[-3::2] if small else KINDS:
        wanted = Wanted(
            layers=LAYERS if "layers" in kind else None,
            texts=texts if "distilled" in kind else None,
            int8="int8" in kind,
            onnx="ONNX" in kind,
        )
        places[kind] = folder / kind.replace(", ", "-").replace(" ", "-")
        optimize(released, places[kind], wanted, {TASK: chosen})
    return places


def _write(path: Path, records: Iterable[Record]) -> Path:
    path.write_text("".join(json.dumps(dict(record)) + "\n" for record in records), encoding="utf-8")
    return path
