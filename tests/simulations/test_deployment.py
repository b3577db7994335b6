"""A real deployment on loopback, with the tiny BERT: daemons, TLS, node keys, rounds, release, every byte on the wire.

An institution's receipts say all of what leaves it, and none of its text is in it.
"""

import base64
import gzip
import hashlib
import json
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import BertModel

from client.institution import Data
from client.keys import read_public_key
from client.leaving.receipts import verify
from client.predict import open_bundle
from client.round.personal import write_own_bundle
from server.opening import open_store
from server.release.making import release_run
from server.rounds import loop as rounds
from server.store import Store, checkpoints, events
from shared.adapter import get_state
from shared.bundle import load_bundle
from shared.federation import Federation
from shared.model.multitask import build_model
from shared.tasks import build_task
from simulations.attacks.files import open_to_others
from simulations.engine import LocalGrid
from simulations.experiment import Experiment, open_sites
from simulations.results import rows_of_run

if TYPE_CHECKING:
    from tests.simulations.conftest import Deployed

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]
INSTITUTIONS = ("hospital", "law_firm")


# peft 0.21 reads a property that transformers 5.23 renames.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_deployment_ends_as_the_simulator_does_and_its_bundle_loads(
    tmp_path: Path, experiment: Experiment, deployed: "Deployed", tiny_bert: Path
) -> None:
    home, run_id = deployed.home, deployed.run_id
    with open_store(home.root) as store:
        assert store.run(run_id)["status"] == "completed"
        trained = store.load_checkpoint(run_id, 2).model
    federation = experiment.federation
    model = build_model(federation)
    initial = get_state(model)
    with Store.open(f"sqlite:///{tmp_path / 'sim.db'}", checkpoints=tmp_path / "sim") as store:
        simulated_run = store.create_run(federation)
        rounds.run(
            LocalGrid(open_sites(experiment, model)),
            federation=federation,
            store=store,
            run_id=simulated_run,
            initial_state=initial,
            announce=lambda _: None,
        )
        simulated = store.load_checkpoint(simulated_run, 2).model
    assert any(np.abs(simulated[name] - initial[name]).max() > 1e-3 for name in initial)
    for name, array in simulated.items():
        np.testing.assert_allclose(trained[name], array, atol=1e-4, err_msg=name)

    rows = rows_of_run(home.root, run_id)
    assert {(row.institution, row.task) for row in rows} == {
        (name, task) for name, tasks in experiment.institutions.items() for task in tasks
    }
    assert all(row.bytes_up > 0 and row.seconds > 0 for row in rows)

    bundle = release_run(home.root, run_id, tmp_path / "bundle")
    assert json.loads((bundle / "metrics.json").read_text())["digest"] == federation.digest
    _check_plain_peft(bundle, tiny_bert)

    for name, tasks in experiment.institutions.items():  # all daemons are down
        own = load_bundle(write_own_bundle(deployed.folder / name / "institution.toml", tmp_path / name))
        released = load_bundle(bundle).arrays
        assert own.tasks == sorted(tasks)
        assert all(np.array_equal(array, released[key]) for key, array in own.arrays.items())


def test_a_coordinator_loads_no_torch_and_fits_a_machine_of_one_gigabyte(deployed: "Deployed") -> None:
    seen = deployed.seen
    assert {"superlink", "superexec", "serverapp"} <= seen.peaks.keys()
    assert seen.torch == set()
    assert seen.together < 500
    with open_store(deployed.home.root) as store:
        (stored,) = [row for row in store.rows(checkpoints, deployed.run_id) if row["round"] == 0]
        said = [row["text"] for row in store.rows(events, deployed.run_id)]
    assert f"The initial state is stored; its SHA-256 is {stored['sha256']}" in said


def _check_plain_peft(bundle: Path, tiny_bert: Path) -> None:
    """The adapter loaded by plain peft, and the head by hand, give the logits of `collegium predict`."""
    predictor = open_bundle(bundle)
    text = "The buyer pays 7 euros."
    ours = predictor.logits("clauses", {"text": text})
    base = BertModel.from_pretrained(tiny_bert, add_pooling_layer=False)
    plain = PeftModel.from_pretrained(base, str(bundle / "adapter")).eval()
    head = predictor.model.heads["clauses"]
    inputs = predictor.model.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        states = plain(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        theirs = head(states, inputs["attention_mask"], {})[0].numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def bodies(streams: Iterable[bytes | bytearray]) -> Iterator[bytes]:
    """The bodies of the HTTP/1.1 messages of each connection, put together and unpacked."""
    for stream in map(bytes, streams):
        rest = stream
        while b"\r\n\r\n" in rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            headers = dict(
                (name.strip().lower(), value.strip().lower())
                for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
            )
            if headers.get(b"transfer-encoding") == b"chunked":
                body, rest = _chunks(rest)
            else:
                length = int(headers.get(b"content-length", b"0"))
                body, rest = rest[:length], rest[length:]
            coding = headers.get(b"content-encoding", b"identity")
            assert coding in (b"identity", b"gzip"), f"unpack {coding!r} here too"
            yield gzip.decompress(body) if coding == b"gzip" and body else body


def _chunks(rest: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size.split(b";")[0] or b"0", 16)
        body += rest[:length]
        rest = rest[length + 2 :]
        if not length:
            return body, rest


def spellings(text: str) -> dict[str, bytes]:
    """How a text may be written: as it is, in UTF-16, escaped for JSON, in hexadecimal, in base64 at each offset."""
    raw = text.encode()
    found = {
        "utf-8": raw,
        "utf-16": text.encode("utf-16-le"),
        "json": json.dumps(text)[1:-1].encode(),
        "hex": raw.hex().encode(),
        "reversed": raw[::-1],
    }
    for offset in range(3):
        coded = base64.b64encode(b"\0" * offset + raw)
        # Characters that hold bits of what stands before or after are cut off.
        whole = coded[-(-offset * 8 // 6) : (offset + len(raw)) * 8 // 6]
        found[f"base64 at {offset}"] = whole
        found[f"base64url at {offset}"] = whole.replace(b"+", b"-").replace(b"/", b"_")
    return found


def occurrences(text: str, streams: list[bytes]) -> list[str]:
    """The spellings of a text that occur in any stream."""
    return [how for how, needle in spellings(text).items() if any(needle in stream for stream in streams)]


def secrets_of(experiment: Experiment, name: str, folder: Path) -> dict[str, set[str]]:
    """Everything of one institution that must never leave."""
    federation = experiment.federation
    texts, entities, labels, paths = set(), set(), set(), {str(folder), "institution.toml", "node.key"}
    for task_name, source in experiment.institutions[name].items():
        task = build_task(task_name, federation.tasks[task_name])
        labels |= set(source.rename)
        for path in (source.train, source.test):
            assert path
            paths |= {str(path), path.name, str(path.parent)}
            for line in path.read_text(encoding="utf-8").splitlines():
                record: dict[str, Any] = json.loads(line)
                texts |= {text for text in task.texts_of(record) if len(text) > 5}
                texts |= {answer["text"] for answer in record.get("answers", ()) if len(answer["text"]) > 4}
                texts |= {" ".join(record["tokens"])} if "tokens" in record else set()
                tagged = zip(record.get("tokens", ()), record.get("tags", ()), strict=True)
                entities |= {token for token, tag in tagged if tag != "O"}
                labels |= {tag for tag in record.get("tags", ()) if tag != "O"}
    return {"text": texts, "entity": entities, "label": labels, "path": paths}


@pytest.mark.parametrize("name", INSTITUTIONS)
def test_no_text_entity_label_or_path_is_in_any_byte(deployed: "Deployed", experiment: Experiment, name: str) -> None:
    tap = deployed.taps[name]
    streams = [*map(bytes, tap.sent), *map(bytes, tap.received)]
    streams += [b"".join(bodies(tap.sent)), b"".join(bodies(tap.received))]
    assert sum(map(len, tap.sent)) > 50_000, "the tap sees the updates"
    looked_for = secrets_of(experiment, name, deployed.folder / name)
    assert len(looked_for["text"]) >= 8
    assert len(looked_for["entity"]) >= 8
    for kind, texts in looked_for.items():
        for text in texts:
            assert not (found := occurrences(text, streams)), f"{kind} {text!r} went over the wire as {found}"


@pytest.mark.parametrize("name", INSTITUTIONS)
def test_the_federations_labels_leave_in_the_inventory_alone(
    deployed: "Deployed", experiment: Experiment, name: str
) -> None:
    """Their names are in the federation file, which everybody holds; that a record bears one is said by counts only."""
    sent = b"".join(bodies(deployed.taps[name].sent))
    for receipt in receipts_of(deployed, name):
        if receipt["kind"] == "query":
            assert set(json.loads(receipt["body"])["labels"]) <= set(experiment.federation.tasks)
            sent = sent.replace(receipt["body"].encode(), b"")
    for label in labels_of(experiment.federation):
        assert label.encode() not in sent, label


@pytest.mark.parametrize("name", INSTITUTIONS)
def test_the_receipts_are_what_went_over_the_wire(deployed: "Deployed", experiment: Experiment, name: str) -> None:
    sent = b"".join(bodies(deployed.taps[name].sent))
    receipts = receipts_of(deployed, name)
    kinds = [receipt["kind"] for receipt in receipts]
    assert kinds.count("train") == experiment.federation.rounds.count
    assert sent.count(f'"institution": "{name}"'.encode()) == len(receipts), "each reply has its receipt"
    for receipt in receipts:
        assert sent.count(receipt["body"].encode()) >= 1
        if receipt["kind"] == "train":
            assert receipt["sha256"] in set(updates_in(sent, receipt["bytes"]))
            assert receipt["norm"] > 0
            assert receipt["run"]


def test_the_search_finds_what_is_there() -> None:
    text = "Die Patientin nimmt täglich Aspirin?>"
    packed = b"POST / HTTP/1.1\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    content = gzip.compress(text.encode())
    packed += b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (10, content[:10], len(content) - 10, content[10:])
    plain = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nde"
    assert list(bodies([packed, plain])) == [text.encode(), b"abc", b"de"]
    assert "json" in occurrences(text, [json.dumps([text]).encode()])
    for lead in range(6):
        coded = base64.b64encode(b"x" * lead + text.encode() + b"y" * lead)
        assert f"base64 at {lead % 3}" in occurrences(text, [coded])
        assert f"base64url at {lead % 3}" in occurrences(text, [coded.translate(bytes.maketrans(b"+/", b"-_"))])


def receipts_of(deployed: "Deployed", name: str) -> list[dict[str, Any]]:
    folder = deployed.folder / name
    assert tomllib.loads((folder / "institution.toml").read_text(encoding="utf-8"))["name"] == name
    return verify(folder / "state", [read_public_key(folder / "node.pub")])


def labels_of(federation: Federation) -> set[str]:
    return {label for name, spec in federation.tasks.items() for label in build_task(name, spec).labels}


def updates_in(stream: bytes, size: int) -> Iterator[str]:
    """SHA-256 of all blobs of a size in a stream; a safetensors blob begins with its header's length and JSON."""
    at = stream.find(b'{"adapter/')
    while at >= 0:
        yield hashlib.sha256(stream[at - 8 : at - 8 + size]).hexdigest()
        at = stream.find(b'{"adapter/', at + 1)


def test_nothing_that_a_deployment_keeps_is_open_to_others(deployed: "Deployed") -> None:
    for folder in (deployed.home.root, *(deployed.folder / name for name in INSTITUTIONS)):
        assert len(list(folder.rglob("*"))) > 10
        assert open_to_others(folder) == []


def test_no_log_holds_a_sentence_of_anybodys_data_and_every_line_is_an_object(
    deployed: "Deployed", experiment: Experiment
) -> None:
    logs = [file for file in deployed.folder.rglob("*.log*") if file.is_file() and file.stat().st_size]
    run_log = f"run-{deployed.run_id}.log"
    assert {file.name for file in logs} >= {"superlink.log", "superexec.log", "supernode.log", "executor.log", run_log}
    text = "".join(file.read_text(encoding="utf-8") for file in logs)
    held = [source for tasks in experiment.institutions.values() for source in tasks.values()]
    sentences = [sentence for source in held for sentence in _said(source)]
    assert len(sentences) > 50
    assert [sentence for sentence in sentences if sentence in text] == []
    lines = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "level", "event", "process"} <= line.keys() for line in lines)
    assert {line.get("institution") for line in lines} >= {"hospital", "law_firm"}
    mine = [line for line in lines if line.get("run") == deployed.run_id]
    assert {line["process"] for line in mine} >= {"run", "executor"}
    assert {line.get("round") for line in mine} >= {1, 2}


def _said(source: Data) -> Iterator[str]:
    """Every text of a data set's records, as it stands there and joined of its words."""
    for file in (source.train, source.test):
        for line in (file.read_text(encoding="utf-8") if file else "").splitlines():
            for value in json.loads(line).values():
                yield from (value,) if isinstance(value, str) and " " in value else ()
                if isinstance(value, list) and all(isinstance(word, str) for word in value) and len(value) > 3:
                    yield " ".join(value)
