"""Verbs of everyone, whether coordinator, institution or reader of a released bundle."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from shared.errors import ConfigError
from shared.process.console import JsonOption, announce, print_json, verbs
from shared.process.memory import loading

BundleArgument = Annotated[Path, typer.Argument(help="A bundle that `collegium server release` wrote.")]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="The coordinator's public/release.pub: no other key will do."),
]
MaskOption = Annotated[
    Path | None,
    typer.Option(
        "--mask",
        metavar="FILE",
        help="TOML file with the keys of [data.TASK.mask]: personal data are replaced before a model reads them.",
    ),
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
    task: Annotated[
        list[str] | None, typer.Option(help="One of the bundle's tasks; may be repeated. Without it all are asked.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="The text to read.")] = None,
    second: Annotated[str | None, typer.Option(help="The question, or the other text of a pair.")] = None,
    file: Annotated[str | None, typer.Option(help="A file of records instead of a text; - is standard input.")] = None,
    out: Annotated[str, typer.Option(help="A new file for answers: .jsonl, .csv or .parquet; - prints them.")] = "-",
    read_as: Annotated[Literal["jsonl", "csv"], typer.Option("--from", help="What standard input is.")] = "jsonl",
    write_as: Annotated[Literal["jsonl", "csv"], typer.Option("--to", help="What is printed.")] = "jsonl",
    whole: Annotated[bool, typer.Option("--with-records", help="Write each record before its answers.")] = False,
    backbone: Annotated[str | None, typer.Option(help="Where the BERT is, if not where the bundle says.")] = None,
    mask: MaskOption = None,
    logits: Annotated[bool, typer.Option("--logits", help="Also print the heads' raw output, by window.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Apply a released bundle to new text: a JSON object for each record, the answers by task."""
    if (text is None) == (file is None):
        raise ConfigError("Expected either --text or --file, but neither or both came; give one of them.")
    if as_json and file is not None:
        raise ConfigError("Expected --text with --json; the answers to a file are a JSON object a line as they are.")
    with loading():
        from client.answers.masking import open_masking
        from client.answers.predicting import open_quietly, predict_stream, predict_text

    masking = None if mask is None else open_masking(mask)
    model = open_quietly(bundle, backbone)
    if file is not None:
        targets: dict[str, Any] = {"read_as": read_as, "write_as": write_as if out == "-" else None}
        predict_stream(model, task or (), file, out, whole=whole, logits=logits, masking=masking, **targets)
        return
    row = predict_text(model, task or (), text or "", second, logits=logits, masking=masking)
    if as_json:
        print_json(row)
    else:
        print(json.dumps(row, ensure_ascii=False))


@app.command(epilog="Example: collegium serve bundle --port 8080")
def serve(
    bundles: Annotated[list[str], typer.Argument(metavar="BUNDLE...", help="Bundles, as FOLDER or NAME=FOLDER.")],
    host: Annotated[str, typer.Option(help="Address to listen at; any but loopback's needs --tokens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 picks a free one.")] = 8080,
    tokens: Annotated[Path | None, typer.Option(help="TOML file of tokens with roles and rates.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="The server's certificate, PEM, for TLS.")] = None,
    private_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    key: KeyOption = None,
    mask: MaskOption = None,
    backbone: Annotated[str | None, typer.Option(help="Where the BERT is, if not where the bundles say.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes on the one port.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Of each; by default all cores together.")] = None,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option(help="Of products; auto is bfloat16 where that is native.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    queue: Annotated[int, typer.Option(min=1, help="Rows of model input that may wait; beyond it 503.")] = 1024,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds for an answer; beyond it 504.")] = 30.0,
    most_texts: Annotated[int, typer.Option(min=1, help="In one request.")] = 256,
    most_bytes: Annotated[int, typer.Option(min=1024, help="Of one request's body.")] = 2**20,
) -> None:
    """Serve bundles by HTTP: POST /v1/predict/TASK and /v1/predict; /v1/tasks, /health, /metrics, /openapi.json.

    SIGHUP has them read again, SIGTERM ends it; no request is lost by either.
    """
    import os

    from client.serving.running import serve as run
    from client.serving.settings import Settings, named

    cores = len(os.sched_getaffinity(0))
    settings = Settings(
        named(bundles),
        backbone=backbone,
        key=key,
        tokens=tokens,
        mask=mask,
        precision=precision,
        device=device,
        threads=threads or max(1, cores // workers),
        queue=queue,
        deadline=deadline,
        most_texts=most_texts,
        most_bytes=most_bytes,
        workers=workers,
    )
    run(settings, host=host, port=port, certificate=certificate, key=private_key, announce=announce)


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

    _verify_if_signed(bundle, key)
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


@app.command(epilog="Example: collegium optimize bundle --out small --records clauses=test.jsonl --layers 4 --int8")
def optimize(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    records: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK=FILE", help="Labelled records to measure with; may be repeated, a task each."),
    ] = None,
    layers: Annotated[int | None, typer.Option(help="How many layers to keep, chosen by loss on the records.")] = None,
    texts: Annotated[
        Path | None,
        typer.Option("--distill", metavar="FILE", help="Texts on which heads learn the whole model's answers."),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Weights of eight bits.")] = False,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="An ONNX graph for ONNX Runtime; needs collegium[optimize].")
    ] = False,
    sign: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A private Ed25519 key to sign the result with.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Where the BERT is, if not where the bundle says.")] = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a smaller or faster bundle of a bundle, with a table of what it gains and loses.

    The adapter is always merged into the BERT, so that the result needs no backbone. A signed bundle is verified first.
    If layers go, they are chosen by every other record, and scores are of the rest.
    """
    files: dict[str, Path] = {}
    for given in records or ():
        task, _, file = given.partition("=")
        if not (task and file) or task in files:
            raise ConfigError(f"Expected --records TASK=FILE, each task once, but {given} came.")
        files[task] = Path(file)
    _verify_if_signed(bundle, key)
    with loading():
        from client.optimize.making import Wanted
        from client.optimize.making import optimize as make
        from client.optimize.telling import cells, columns, done
        from shared.bundle.keys import read_release_key
        from shared.process.console import print_table

    line = None if key is None else read_release_key(key)
    made = make(bundle, out, Wanted(layers, texts, int8, onnx), files, backbone=backbone, key=line, sign=sign)
    if as_json:
        rows = {name: asdict(row) for name, row in made.rows.items()}
        print_json({"bundle": str(out), "about": made.about.model_dump(mode="json"), "rows": rows})
        return
    print_table(columns(made.metrics), [cells(name, row) for name, row in made.rows.items()])
    announce(f"Wrote {out}: {done(made.about)}.")


def _verify_if_signed(bundle: Path, key: Path | None) -> None:
    """Verify a bundle, or say that it is not signed; with a key it has to be."""
    from shared.bundle import is_sealed, verify_bundle
    from shared.bundle.keys import read_release_key

    if key is not None or is_sealed(bundle):
        verify_bundle(bundle, None if key is None else read_release_key(key))
    else:
        announce(f"{bundle} is not signed: anybody may have written it.")
