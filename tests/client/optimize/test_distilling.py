"""A head learns what it said before, and keeps what brings it closer on texts that it has not learnt from."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from client.optimize import distilling
from client.optimize.distilling import closer, distill, read_texts
from client.optimize.given import batches_of
from shared.errors import DataError
from shared.inference.model import ReleasedModel

TEXTS = [{"text": f"{number} parcels came {when}."} for number in range(20) for when in ("early", "late")]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distilling, "STEPS", 200)


def shifted(released: ReleasedModel) -> ReleasedModel:
    """The same model, but for states that a head can make good."""

    def encode(ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        return released.encode(ids, mask, types) * 0.5 + 0.2

    return replace(released, encode=encode)


def test_heads_over_other_states_say_again_what_they_said(released: ReleasedModel) -> None:
    student = shifted(released)
    found = distill(released, student, TEXTS)
    assert {"topics", "codes"} <= found.keys()
    assert not {"questions", "masks", "writing"} & found.keys()  # no records of these, or they choose words
    examples = released.examples("topics", [{"text": "7 parcels came early."}])
    (wanted,), (before,) = released.infer(examples), student.infer(examples)
    (after,) = replace(student, heads={**student.heads, **found}).infer(examples)
    assert abs(after - wanted).max() < 0.5 * abs(before - wanted).max()
    assert not any(one.requires_grad for head in found.values() for one in head.parameters())


def test_a_head_that_comes_no_closer_stays(released: ReleasedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    head = released.heads["topics"]
    (rows,) = batches_of(released, released.examples("topics", TEXTS[:2]))
    states = released.encode(rows.ids, rows.mask, rows.types)
    right = (states, rows, head(states, rows.mask, rows.inputs))
    wrong = (states, rows, right[2] + 5.0)
    assert closer(head, [right], [right, wrong]) is None
    assert closer(head, [wrong], [right, wrong]) is None  # it learns from the others alone
    learnt = closer(head, [wrong], [wrong])
    assert learnt is not None
    assert not torch.equal(learnt.state_dict()["linear.bias"], head.state_dict()["linear.bias"])


def test_texts_are_read_as_far_as_they_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distilling, "MOST", 3)
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(text) + "\n" for text in TEXTS), encoding="utf-8")
    assert read_texts(path) == TEXTS[:3]
    path.write_text("none\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"1 of 1 rows .* could not be answered: line 1"):
        read_texts(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="the file is empty"):
        read_texts(path)
