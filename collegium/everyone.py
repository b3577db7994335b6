"""Verbs of everyone, whether coordinator, institution or reader of a released bundle."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from shared.process.console import JsonOption, announce, print_json, verbs

BundleArgument = Annotated[Path, typer.Argument(help="A bundle that `collegium server release` wrote.")]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="The coordinator's public/release.pub: no other key will do."),
]
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
    bundle: BundleArgument,
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


@app.command(epilog="Example: collegium verify bundle --key release.pub")
def verify(bundle: BundleArgument, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Read every byte of a bundle, and hold it against what the coordinator and the institutions have signed.

    A file that was changed, added or taken away is named, and the exit code is 1. Without --key compare the key's
    fingerprint with what the coordinator says: whoever forges a bundle signs it too, with another key.
    """
    from shared.bundle import verify_bundle
    from shared.bundle.keys import read_release_key
    from shared.nodekeys import fingerprint

    found = verify_bundle(bundle, None if key is None else read_release_key(key))
    manifest, consents = found.manifest, found.consents
    if as_json:
        signed = {consent.name: fingerprint(consent.key) for consent in consents}
        print_json({**manifest.model_dump(mode="json"), "key_given": key is not None, "consents": signed})
        return
    print(f"{bundle}: {len(manifest.files)} files, all as they were signed at {manifest.time}.")
    print(f"Release {manifest.release} of {manifest.federation}, whose agreement is {manifest.agreement}.")
    told = "which is the one given" if key else "compare it with what the coordinator says, or give its file as --key"
    print(f"Signed by {fingerprint(manifest.key)}: {told}.")
    for consent in consents:
        print(f"{consent.name} consents, by its key {fingerprint(consent.key)}.")


@app.command(epilog="Example: collegium card bundle")
def card(bundle: BundleArgument, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Print the model card of a bundle, once it is known to be as it was signed; --json prints the figures in it."""
    from shared.bundle import README_FILE, load_metrics

    if not _verify_if_signed(bundle, key):
        announce(f"{bundle} is not signed: anybody may have written this card.")
    if as_json:
        print_json(load_metrics(bundle))
    else:
        print((bundle / README_FILE).read_text(encoding="utf-8"))


@app.command(epilog="Example: collegium merge bundle --out merged")
def merge(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    backbone: Annotated[str | None, typer.Option(help="Where the BERT is, if not where the bundle says.")] = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Merge a bundle's adapter into its BERT: a folder that `BertModel.from_pretrained` loads, without peft.

    A bundle that is signed is verified first.
    """
    _verify_if_signed(bundle, key)
    from shared.bundle.merging import merge_bundle

    merge_bundle(bundle, out, backbone)
    if as_json:
        print_json({"merged": str(out)})
    else:
        announce(f"Wrote {out}; the heads are in {bundle / 'heads.safetensors'}.")


def _verify_if_signed(bundle: Path, key: Path | None) -> bool:
    from shared.bundle import is_sealed, verify_bundle
    from shared.bundle.keys import read_release_key

    if signed := key is not None or is_sealed(bundle):
        verify_bundle(bundle, None if key is None else read_release_key(key))
    return signed
