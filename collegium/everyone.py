"""Verbs of everyone, whether coordinator, institution or reader of a released bundle."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from shared.process.console import JsonOption, print_json, verbs

app = verbs("What everyone may want to see.")


@app.command(epilog="Example: collegium digest federation.toml")
def digest(
    file: Annotated[Path, typer.Argument(help="A federation file.")] = Path("federation.toml"),
    as_json: JsonOption = False,
) -> None:
    """Print the digest of an agreement: what institutions approve, whatever its comments and the order of its keys."""
    from shared.federation import load_federation

    federation = load_federation(file)
    if as_json:
        print_json({"name": federation.name, "digest": federation.digest})
    else:
        print(federation.digest)


@app.command(epilog="Example: collegium methods")
def methods(as_json: JsonOption = False) -> None:
    """List what rounds.method may be: what is sent, whether the mean is exact, and what it can be combined with."""
    from shared.federation.methods import METHODS, columns

    if as_json:
        print_json({name: asdict(method) for name, method in METHODS.items()})
        return
    for name, method in METHODS.items():
        print(f"{name}: {method.summary} ({method.source})")
        for key, text in columns(method).items():
            print(f"  {key:20}{text}")


@app.command(epilog="Example: collegium tasks")
def tasks(as_json: JsonOption = False) -> None:
    """List the types of task: what a record holds, head, loss, metrics, and the papers behind them."""
    from shared.tasks import TASK_TYPES

    cards = {name: asdict(task.card) for name, task in sorted(TASK_TYPES.items())}
    if as_json:
        print_json(cards)
        return
    for name, card in cards.items():
        print(f"{name}: {card.pop('summary')}")
        for key, text in card.items():
            print(f"  {key:8}{text}")


@app.command(epilog="Example: collegium predict bundle --task clauses --text 'The buyer pays within 30 days.'")
def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle that `collegium server release` wrote.")],
    task: Annotated[str, typer.Option(help="One of the bundle's tasks.")],
    text: Annotated[str | None, typer.Option(help="The text to read.")] = None,
    second: Annotated[str | None, typer.Option(help="The question, or the other text of a pair.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file of records instead of one text.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Where the BERT is, if not where the bundle says.")] = None,
    logits: Annotated[bool, typer.Option("--logits", help="Also print the head's raw output.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Apply a released bundle to new text."""
    from client.predict import open_bundle, records_of

    predictor = open_bundle(bundle, backbone=backbone)
    records = records_of(predictor, task, text=text, second=second, file=file)
    rows = [{"prediction": prediction} for prediction in predictor.predict(task, records)]
    if logits:
        rows = [row | {"logits": predictor.logits(task, r).tolist()} for row, r in zip(rows, records, strict=True)]
    if as_json:
        print_json({"task": task, "rows": rows})
        return
    for row in rows:
        print(json.dumps(row, ensure_ascii=False) if logits else json.dumps(row["prediction"], ensure_ascii=False))
