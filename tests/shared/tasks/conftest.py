"""What every task type must show of itself inside the model."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch

from shared.federation import Federation
from shared.model.multitask import MultiTaskModel, build_model
from shared.tasks import Record

MakeModel = Callable[..., MultiTaskModel]


@pytest.fixture(scope="session")
def make_model(tiny_federation: Callable[..., Federation]) -> MakeModel:
    """Makes a model over the tiny BERT with the tasks given by keyword beside the tiny federation's own."""

    def make(**tasks: Mapping[str, Any]) -> MultiTaskModel:
        return build_model(tiny_federation(tasks=tasks)).eval()

    return make


@pytest.fixture(scope="session")
def rows_stand_alone() -> Callable[[MultiTaskModel, Mapping[str, Sequence[Record]]], None]:
    """Asserts that a row's loss is the same in a mixed batch, in its task's batch and alone."""

    def check(model: MultiTaskModel, records: Mapping[str, Sequence[Record]]) -> None:
        examples = {name: model.tasks[name].encode(rows, model.tokenizer, 64) for name, rows in records.items()}
        longest = max(len(rows) for rows in examples.values())
        mixed = model.collate([rows[i] for i in range(longest) for rows in examples.values() if i < len(rows)])
        with torch.inference_mode():
            losses = model.losses(mixed, model(mixed))
            for name, rows in examples.items():
                together = model.collate(rows)
                alone = [model.collate([row]) for row in rows]
                one_by_one = torch.cat([model.losses(batch, model(batch))[name] for batch in alone])
                assert losses[name].shape == (len(rows),)
                torch.testing.assert_close(losses[name], one_by_one, rtol=1e-6, atol=1e-6)
                torch.testing.assert_close(
                    losses[name], model.losses(together, model(together))[name], rtol=1e-6, atol=1e-6
                )

    return check


@pytest.fixture(scope="session")
def learn_by_heart() -> Callable[..., dict[str, float]]:
    """Trains a copy of a model on a task's records in one batch, step after step, and gives their scores."""

    def learn(model: MultiTaskModel, name: str, records: Sequence[Record], steps: int = 120) -> dict[str, float]:
        model = copy.deepcopy(model)
        task = model.tasks[name]
        examples = task.encode(records, model.tokenizer, 64)
        batch = model.collate(examples)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / steps)
            optimizer.zero_grad()
            model.losses(batch, model(batch))[name].mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.inference_mode():
            rows = model.infer(batch)[name].numpy()
        logits = [row[: len(e)] if rows.ndim == 3 else row for e, row in zip(examples, rows, strict=True)]
        predictions = task.predict(examples, logits)
        return task.score(records, [predictions[i] for i in range(len(records))])

    return learn
