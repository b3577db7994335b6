"""The gate: exactly the declared arrays, finite, within the caps; nothing else becomes bytes."""

import ast
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import client
from client.leaving.gate import describe, pack
from client.policy import Policy
from client.site import Site
from client.train import trainer
from shared import codec
from shared.adapter import get_state
from shared.codec import Arrays, CodecName, Coding
from shared.errors import PolicyError
from shared.federation import Federation
from shared.protocol import QueryReply, Refusal, TrainReply, TrainRequest
from shared.state import Update

SHAPES = {"adapter/a": (2, 3), "head/t/w": (4,), "head/u/w": (5,)}


def arrays(**changes: Any) -> Arrays:
    made: Arrays = {"adapter/a": np.ones((2, 3), np.float32), "head/t/w": np.ones(4, np.float32)}
    return made | {name.replace("_", "/"): value for name, value in changes.items()}


def pass_gate(update: Arrays, coding: CodecName = "float32", **rules: Any) -> bytes:
    parcel = pack(
        Update(update), shapes=Update(SHAPES), tasks={"t"}, coding=Coding(coding), policy=Policy.model_validate(rules)
    )
    return parcel.blob


def test_a_good_update_passes_unchanged_with_its_norm() -> None:
    parcel = pack(Update(arrays()), shapes=Update(SHAPES), tasks={"t"}, coding=Coding("float32"), policy=Policy())
    assert parcel.blob == codec.encode(arrays(), "float32")
    assert parcel.norm == pytest.approx(np.sqrt(10.0))
    assert pass_gate(arrays(), max_norm=3.17, max_upload_bytes=len(parcel.blob)) == parcel.blob


@pytest.mark.parametrize(
    ("update", "said"),
    [
        (arrays(head_t_w=np.array([1, np.nan, 1, 1], np.float32)), "finite values"),
        (arrays(head_t_w=np.array([1, np.inf, 1, 1], np.float32)), "finite values"),
        (arrays(texts=np.ones(4, np.float32)), "'texts' is not among those agreed"),
        (arrays(head_u_w=np.ones(5, np.float32)), "'head/u/w' is not among those agreed"),
        ({"adapter/a": np.ones((2, 3), np.float32)}, "head/t/w, but it is missing"),
        (arrays(head_t_w=np.ones(5, np.float32)), r"shape \(4,\)"),
        (arrays(head_t_w=np.ones((4, 1), np.float32)), r"shape \(4,\)"),
        (arrays(head_t_w=np.ones(4, np.float64)), "float64"),
        (arrays(head_t_w=np.frombuffer(b"text", np.uint8)), "uint8"),
    ],
)
def test_nothing_else_passes(update: Arrays, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        pass_gate(update)


def test_what_is_checked_is_what_leaves() -> None:
    with pytest.raises(PolicyError, match="as float16"):
        pass_gate(arrays(head_t_w=np.full(4, 1e6, np.float32)), "float16")  # finite until it is encoded


def test_caps_are_the_policys() -> None:
    with pytest.raises(PolicyError, match=r"policy\.max_norm"):
        pass_gate(arrays(), max_norm=3.16)
    size = len(pass_gate(arrays()))
    with pytest.raises(PolicyError, match=r"policy\.max_upload_bytes"):
        pass_gate(arrays(), max_upload_bytes=size - 1)


WRITERS = {"shared.codec", "safetensors.numpy", "safetensors.torch"}
WRITE = {"encode", "as_safetensors", "save", "save_file"}


def test_the_gate_is_the_only_place_that_encodes_at_the_institution() -> None:
    """`codec.encode` or a serialiser of arrays named anywhere else under client/ would be another way out."""
    found = []
    for file in sorted(Path(client.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if (node.value.id, node.attr) in {("codec", "encode"), ("np", "save"), ("torch", "save")}:
                    found.append(file.name)
            elif isinstance(node, ast.ImportFrom) and node.module in WRITERS:
                found += [
                    file.name for name in node.names if name.name in {"encode", "as_safetensors", "save", "save_file"}
                ]
    stays = ["trial.py", "trial.py", "keep.py", "making.py", "personal.py", "place.py"]  # of an optimized bundle, too
    assert sorted(found) == sorted(["gate.py", *stays]), "of what the others write nothing leaves, of a trial the size"


def test_a_diverged_training_is_refused_at_the_site(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site("clauses")
    original = trainer.train

    def diverge(*args: Any, **kwargs: Any) -> Any:
        outcome = original(*args, **kwargs)
        next(p for p in site.model.parameters() if p.requires_grad).data.fill_(float("nan"))
        return outcome

    monkeypatch.setattr(trainer, "train", diverge)
    state = codec.encode(get_state(site.model), "float32")
    reply = site.answer(TrainRequest(spec_digest=site.federation.digest, run="r1", round=1, rounds=2, state=state))
    assert isinstance(reply, Refusal)
    assert reply.kind == "policy"
    assert "finite" in reply.reason


def test_a_release_says_what_leaves(tiny_federation: Callable[..., Federation]) -> None:
    federation = tiny_federation()
    query = QueryReply(institution="bank", records={"u": {"train": 3}, "t": {"train": 4}}, software="1")
    told = describe(query, federation=federation, run="7")
    assert (told.kind, told.tasks, told.round, told.norm, told.run) == ("query", ("t", "u"), None, None, "7")
    assert told.sha256 == hashlib.sha256(told.body.encode()).hexdigest()
    assert json.loads(told.body)["records"] == query.records
    trained = TrainReply(
        institution="bank", round=3, examples={"t": 4}, losses={}, steps=1, seconds=0.5, update=b"\x00blob"
    )
    told = describe(trained, federation=federation)
    assert (told.epsilon, told.ledger) == (None, None)
    told = describe(dataclasses.replace(trained, epsilon=0.25, ledger="4:ab"), federation=federation, norm=1.5)
    assert told.ledger == (4, "ab")
    assert (told.kind, told.round, told.bytes, told.norm, told.epsilon) == ("train", 3, 5, 1.5, 0.25)
    assert told.sha256 == hashlib.sha256(b"\x00blob").hexdigest()
    assert told.federation == federation.digest
    assert "blob" not in told.body
