"""Our loop is the field's: over the same batches, Hugging Face's Trainer ends at our weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer

from client import gradients, trainer
from shared.adapter import get_state, set_state
from shared.federation import Federation
from shared.model import build_model
from shared.tasks import Example
from simulations.benchmarks.parity import by_trainer


def test_trainer_ends_at_our_weights(
    tiny_federation: Callable[..., Federation], monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = tiny_federation(
        training={
            "batch_tokens": 90,
            "epochs_per_round": 2,
            "head_dropout": 0.0,
            "weight_decay": 0.0,
            "clip_norm": 0.5,
        }
    )
    model = build_model(federation)
    initial = get_state(model)
    records = [
        {"text": f"Payment is due by day {day}.", "label": ("payment", "liability")[day % 2]} for day in range(1, 31)
    ]
    examples = model.tasks["clauses"].encode(records, model.tokenizer, 64)
    assert {len(example) for example in examples} == {9}  # so that ours are batches of as many rows as Trainer's

    seen: list[Example] = []

    def watched(model: Any, batch: list[Example], *rest: Any) -> Any:
        seen.extend(batch)
        return gradients.accumulate(model, batch, *rest)

    monkeypatch.setattr(trainer, "accumulate", watched)
    training = federation.training
    steps = trainer.train(model, examples, training, seed=1).steps
    ours = get_state(model)

    set_state(model, initial)
    monkeypatch.setattr(Trainer, "_get_train_sampler", lambda self, data: torch.utils.data.SequentialSampler(data))
    once = training.model_copy(update={"epochs_per_round": 1})  # both epochs, in our order
    assert by_trainer(model, "clauses", seen, once, seed=1) == steps
    for name, array in get_state(model).items():
        moved = np.abs(ours[name] - initial[name]).max()
        np.testing.assert_allclose(array, ours[name], atol=1e-4 * moved, err_msg=name)
        assert moved > 1e-3 or ("clauses" not in name and "head" in name), name
