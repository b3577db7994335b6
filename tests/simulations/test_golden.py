"""What travels and what is stored, as it has always been: names, shapes and types of every blob and checkpoint.

`golden.json` holds digests of them, of small federations under every method; `GOLDEN=write` writes it anew. Numbers
differ between processors, so they are not in it. Whoever means to change no number runs these tests before and after
with `GOLDEN=FILE`, which adds a SHA-256 of every blob, checkpoint and row of the store to that file, and compares.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from flwr.app import Message
from safetensors import SafetensorError
from safetensors.numpy import load

from client.institution import AdapterSize, Data, Institution
from client.opening import build_site
from client.preflight import Kept
from server.store import Store, events, replies, scores
from server.store import rounds as round_table
from shared import codec, protocol
from shared.adapter import get_state
from shared.codec import Coding, StateCodec
from shared.federation import Federation
from shared.federation.methods import MethodName
from shared.model.multitask import build_model
from simulations.engine import LocalGrid, run_on
from simulations.nodekeys import node_key

GOLDEN = Path(__file__).with_name("golden.json")
WANTED = os.environ.get("GOLDEN", "")
HELD = {"hospital": ("clauses", "entities"), "law_firm": ("clauses",), "bank": ("entities", "clauses")}
SGD = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 1e-2}
EQUAL = {"weighting": "equal"}
ADALORA = {"type": "adalora", "target_rank": 2, "warmup_rounds": 1, "final_rounds": 1}
CASES: dict[str, dict[str, Any]] = {
    **{method: {"rounds": {"method": method}} for method in get_args(MethodName)},
    "scaffold": {"training": SGD | {"scaffold": True}, "rounds": EQUAL | {"method": "rolora"}},
    "scaffold with fedadam": {
        "training": SGD | {"scaffold": True},
        "rounds": EQUAL,
        "server_optimizer": {"type": "fedadam"},
    },
    "fednova": {"rounds": {"normalize_steps": True}},
    "fednova by examples": {"rounds": {"normalize_steps": True, "weighting": "examples"}, "training": SGD},
    "adalora": {"adapter": ADALORA},
    "adalora with fednova": {"adapter": ADALORA, "rounds": {"normalize_steps": True}},
    "fedavgm": {"server_optimizer": {"type": "fedavgm"}, "rounds": {"method": "ffa"}},
    "fedyogi": {"server_optimizer": {"type": "fedyogi"}, "rounds": {"method": "rolora"}},
    "top-k": {"wire": {"up": "top-k", "top_k": 0.1}},
    "int8": {"wire": {"up": "int8", "down": "int8"}},
    "int4": {"wire": {"up": "int4", "down": "int4"}, "rounds": {"method": "fedex"}},
    "ranks": {"adapter": {"min_rank": 2}, "rounds": {"method": "flexlora"}},
    "ranks by fedavg": {"adapter": {"min_rank": 2}},
    "heads at home": {"personal": {"keep": ["heads"]}},
    "fine-tune": {"personal": {"fine_tune_epochs": 1}, "rounds": {"count": 1}},
    "median": {"robust": {"filter": "median"}, "rounds": EQUAL | {"quorum": 3, "method": "rolora"}},
    "geometric median": {"robust": {"filter": "geometric-median"}, "rounds": EQUAL | {"quorum": 3, "method": "fedex"}},
    "secure aggregation": {"secure_aggregation": {"threshold": 3}, "rounds": {"quorum": 3}},
    "secure fedsvd": {
        "secure_aggregation": {"threshold": 3},
        "rounds": {"quorum": 3, "method": "fedsvd"},
    },
    "secure fedadam": {
        "secure_aggregation": {"threshold": 3},
        "rounds": {"quorum": 3},
        "server_optimizer": {"type": "fedadam"},
    },
}
QUICK = ("fedex", "scaffold with fedadam")
"""Between them they have nearly everything that travels and is stored."""
NOISE = {"run", "spec_digest", "seconds", "software", "signature", "sealing_key", "masking_key", "commitment", "shares"}
"""Fields of messages that no two runs share."""


class Recorder(LocalGrid):
    """The simulator's Grid, which keeps every message that passes."""

    def __init__(self, sites: Mapping[str, Any]) -> None:
        super().__init__(sites)
        self.passed: list[tuple[str, Any]] = []

    def _deliver(self, message: Message) -> Message:
        reply = super()._deliver(message)
        name = self._names[message.metadata.dst_node_id]
        self.passed.append((name, protocol.decode(message.content, *protocol.MESSAGE_TYPES)))
        self.passed.append((name, protocol.decode(reply.content, *protocol.REPLIES)))
        return reply


def layout(blob: bytes) -> Any:
    """Names, types and shapes of a blob; its length where it holds no arrays."""
    try:
        arrays = load(blob)
    except SafetensorError:
        return len(blob)
    if arrays.keys() == {"values", "gaps"}:  # how long the gaps are depends on the numbers
        arrays.pop("gaps")
    return shapes(arrays)


def shapes(arrays: Mapping[str, np.ndarray]) -> list[str]:
    return [f"{name} {array.dtype} {list(array.shape)}" for name, array in sorted(arrays.items())]


def secret(kind: str) -> bool:
    """Whether keys of the run are in messages of this kind, so that no two runs share their bytes."""
    return kind.startswith(("Shares", "Open", "Mask", "Confirm", "Unmask"))


def digest(of: Any) -> str:
    content = of if isinstance(of, bytes) else json.dumps(of, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def observe(
    case: str,
    tiny_federation: Callable[..., Federation],
    split_data: Callable[..., dict[str, Data]],
    store: Store,
) -> tuple[Any, Any]:
    """Layouts of what a federation sends and stores, by message and round; and digests of all of it."""
    tables = {key: dict(value) for key, value in CASES[case].items()}
    tables["rounds"] = {"count": 3 if case.endswith(("scaffold", "adalora")) else 2} | tables.get("rounds", {})
    federation, sites = tiny_federation(HELD, **tables), {}
    ranks = {"law_firm": 2, "bank": 3} if case.startswith("ranks") else {}
    full = federation.adapter.rank
    models = {rank: build_model(federation, rank=rank) for rank in {full, *ranks.values()}}
    for name, tasks in HELD.items():
        rank = ranks.get(name, full)
        institution = Institution(name=name, data=split_data(name, tasks), adapter=AdapterSize(rank=rank))
        sites[name] = build_site(institution, federation, models[rank], Kept(node_key=node_key(name)))
    grid = Recorder(sites)
    run_id = run_on(grid, federation, get_state(models[full]), store)
    layouts: dict[str, list[Any]] = {}
    exact: list[Any] = []
    for who, message in grid.passed:
        kind, blobs = type(message).__name__, protocol.blobs_of(message)
        body = {key: value for key, value in json.loads(protocol.body_of(message)).items() if key not in NOISE}
        layouts.setdefault(kind, []).append(
            [who, body.get("round"), {key: layout(blob) for key, blob in blobs.items()}]
        )
        told = {key: str(value).replace(run_id, "RUN") for key, value in body.items()}
        exact.append(
            [who, kind, {}, {}] if secret(kind) else [who, kind, told, {k: digest(b) for k, b in blobs.items()}]
        )
    for file in sorted(store._folder.glob(f"{run_id}/*.safetensors")):
        layouts.setdefault("checkpoints", []).append(layout(file.read_bytes()))
        exact.append([file.name.rsplit("-", 1)[0], digest(file.read_bytes())])
    for table in (scores, replies, round_table, events):
        dropped = ("run", "id", "time", "seconds", "ended", "at")
        rows = [{k: str(v) for k, v in row.items() if k not in dropped} for row in store.rows(table, run_id)]
        exact.append([table.name, [re.sub(r"\d+\.\d s", "", json.dumps(row).replace(run_id, "RUN")) for row in rows]])
    return layouts, exact


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in QUICK else pytest.mark.slow) for case in CASES]
)
def test_what_travels_and_what_is_stored_stays_the_same(
    case: str,
    tiny_federation: Callable[..., Federation],
    split_data: Callable[..., dict[str, Data]],
    store: Store,
) -> None:
    layouts, exact = observe(case, tiny_federation, split_data, store)
    found = {kind: digest(of)[:16] for kind, of in layouts.items()}
    if WANTED and WANTED != "write":
        with open(WANTED, "a", encoding="utf-8") as file:
            file.writelines(f"{case}\t{digest(one)}\t{json.dumps(one)[:400]}\n" for one in exact)
    known = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    if WANTED == "write":
        GOLDEN.write_text(json.dumps(known | {case: found}, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    else:
        assert found == known[case]


def fixed() -> dict[str, np.ndarray]:
    """Arrays of numbers that every processor makes alike."""
    wave = (np.arange(97 * 8, dtype=np.int64) * 7919 % 1009 - 504).astype(np.float32) / np.float32(512)
    return {
        "adapter/x.lora_A.weight": wave.reshape(8, 97),
        "head/t/bias": wave[:5].copy(),
        "scalar": wave[3].reshape(()),
    }


@pytest.mark.parametrize("name", [*get_args(StateCodec), "top-k"])
def test_codecs_write_the_same_bytes(name: Any) -> None:
    blob = codec.encode(fixed(), Coding(name, top_k=0.1), np.random.default_rng(1))
    known = json.loads(GOLDEN.read_text(encoding="utf-8"))
    if WANTED == "write":
        GOLDEN.write_text(json.dumps(known | {f"codec {name}": digest(blob)}, indent=0, sort_keys=True) + "\n")
    else:
        assert digest(blob) == known[f"codec {name}"]


def test_an_agreement_keeps_its_digest() -> None:
    values = {
        "name": "golden",
        "backbone": {"name": "google-bert/bert-base-uncased", "sha256": "0" * 64},
        "tasks": {"topics": {"type": "text-classification", "labels": ["one", "other"]}},
        "rounds": {"institutions": ["hospital", "law_firm"], "quorum": 2, "method": "fedavg"},
    }
    known = json.loads(GOLDEN.read_text(encoding="utf-8"))
    found = Federation.model_validate(values).digest
    if WANTED == "write":
        GOLDEN.write_text(json.dumps(known | {"agreement": found}, indent=0, sort_keys=True) + "\n")
    else:
        assert found == known["agreement"]
