"""Our loop is the field's: over the same batches, Hugging Face's Trainer ends at our weights."""

from collections.abc import Callable

import numpy as np

from client.train import trainer
from shared.adapter import get_state, set_state
from shared.federation import Federation
from shared.model.multitask import build_model
from simulations.benchmarks.scores.parity import by_trainer, our_batches


def test_trainer_ends_at_our_weights(tiny_federation: Callable[..., Federation]) -> None:
    federation = tiny_federation(
        training={
            "batch_tokens": 90,
            "epochs_per_round": 2,
            "head_dropout": 0.0,
            "weight_decay": 0.0,  # Trainer decays no bias
            "clip_norm": 0.5,
        }
    )
    model, training = build_model(federation), federation.training
    initial = get_state(model)
    records = [
        {"text": "Payment is due. " * (1 + day % 3), "label": ("payment", "liability")[day % 2]} for day in range(30)
    ]
    examples = model.tasks["clauses"].encode(records, model.tokenizer, 64)
    steps = trainer.train(model, examples, training, seed=1).steps
    ours = get_state(model)

    set_state(model, initial)
    batches = our_batches(examples, training, seed=1)
    assert len(batches) == steps
    by_trainer(model, "clauses", batches, training)
    for name, array in get_state(model).items():
        moved = np.abs(ours[name] - initial[name]).max()
        np.testing.assert_allclose(array, ours[name], atol=1e-4 * moved, err_msg=name)
        assert moved > 1e-3 or ("head" in name and "clauses" not in name), name
