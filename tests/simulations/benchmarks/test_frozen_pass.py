"""Frozen states by another encoder: what a head is trained on, and what is said where the libraries are missing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from shared.errors import ConfigError
from shared.federation import Federation
from shared.model.multitask import MultiTaskModel, build_model
from shared.tasks import Example
from simulations.attacks.stage import TINY_RECORDS
from simulations.benchmarks.measured import Asked
from simulations.benchmarks.table import run
from simulations.benchmarks.training import frozen_pass


def test_a_library_that_is_missing_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(frozen_pass, "import_module", absent)
    with pytest.raises(
        ConfigError, match=r"onnx is not installed; install them with `pip install 'collegium\[bench\]'"
    ):
        run("frozen_pass", Asked(turns=1, small=True))


def test_states_are_the_given_encoders_and_computed_once(tiny_federation: Callable[..., Federation]) -> None:
    model = build_model(tiny_federation(rounds={"method": "heads"}))
    asked: list[int] = []

    def twos(ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        asked.append(len(ids))
        return torch.full((*ids.shape, 32), 2.0)

    model.frozen = frozen_pass.Given(twos)
    batch = model.collate(clauses(model)[:3])
    model.eval()
    logits = [model(batch)["clauses"] for _ in range(2)]
    assert asked == [3]
    torch.testing.assert_close(logits[1][0], logits[1][2])  # whatever the texts


def test_states_are_of_sub_tokens_alone(tiny_federation: Callable[..., Federation]) -> None:
    model = build_model(tiny_federation())
    examples = sorted(clauses(model), key=len)
    batches = [model.collate(examples[:2]), model.collate(examples[2:])]
    found = frozen_pass.states_of(lambda ids, mask, types: torch.stack([ids, mask], -1), batches)
    assert len(found) == sum(map(len, examples))
    assert bool(found[:, 1].all())


def clauses(model: MultiTaskModel) -> list[Example]:
    return list(model.tasks["clauses"].encode(TINY_RECORDS["clauses"], model.tokenizer, 32))
