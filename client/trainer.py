"""The one local training loop: the daemon, the simulator and the tests all call it."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from client.batching import evaluation_batches, training_batches
from shared.errors import DataError
from shared.federation import Training
from shared.losses import mean_over_rows
from shared.model import MultiTaskModel
from shared.tasks import Example

Progress = Callable[[int, int], None]
"""Called after every step with (steps done, steps in all)."""


@dataclass(frozen=True)
class Outcome:
    """What one round of local training did."""

    steps: int
    losses: dict[str, float]
    """Mean loss per task over the last epoch."""
    seconds: float


def train(
    model: MultiTaskModel,
    examples: Sequence[Example],
    training: Training,
    *,
    seed: int,
    round: int = 1,
    rounds: int = 1,
    progress: Progress | None = None,
) -> Outcome:
    """Train adapter and heads in place for one round.

    AdamW starts afresh every round; the learning rate follows one warm-up and linear decay over the whole run.

    Args:
        model: Holds the global state; changed in place.
        examples: The site's encoded training records, tasks mixed.
        training: The federation's hyperparameters.
        seed: Decides order and dropout; see `derive_seed`.
        round: This round, from 1.
        rounds: Rounds in the whole run.
        progress: Told of every step.

    Returns:
        Steps, mean loss per task in the last epoch, seconds.

    Raises:
        DataError: A loss is not finite; the model is left as it was before that step.
    """
    started = time.perf_counter()
    rng = np.random.default_rng(seed)
    epochs = training.epochs_per_round
    plan = [
        [model.tasks[example.task].redraw(example, rng) for example in batch]
        for _ in range(epochs)
        for batch in training_batches(examples, training.batch_tokens, rng)
    ]
    last_epoch = len(plan) - len(plan) // max(1, epochs)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=training.weight_decay)
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    with torch.random.fork_rng(devices=_cuda(model)):
        torch.manual_seed(seed)
        model.train()
        for step, batch in enumerate(plan):
            rate = learning_rate(training, (round - 1 + step / len(plan)) / rounds)
            for group in optimizer.param_groups:
                group["lr"] = rate
            losses = _step(model, batch, optimizer, parameters, training)
            if step >= last_epoch:
                for task, values in losses.items():
                    sums[task][0] += float(values.sum())
                    sums[task][1] += len(values)
            if progress:
                progress(step + 1, len(plan))
        model.eval()
    means = {task: total / count for task, (total, count) in sums.items()}
    return Outcome(len(plan), means, time.perf_counter() - started)


def learning_rate(training: Training, done: float) -> float:
    """Linear warm-up, then linear decay to zero, at the fraction `done` of the whole run."""
    if done < training.warmup:
        return training.learning_rate * (done + 1e-3) / (training.warmup + 1e-3)
    return training.learning_rate * (1 - done) / (1 - training.warmup)


def derive_seed(seed: int, institution: str, round: int) -> int:
    """A seed for one institution and round, the same wherever that round is computed."""
    digest = hashlib.sha256(f"{seed}/{institution}/{round}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


@torch.inference_mode()
def predict(
    model: MultiTaskModel, examples: Sequence[Example], *, batch_tokens: int = 8192, precision: str = "auto"
) -> dict[int, Any]:
    """Predictions of one task's examples by record index.

    Args:
        model: Its heads must include the examples' task.
        examples: Encoded records of a single task.
        batch_tokens: Most padded sub-tokens in one batch.
        precision: As in `Training.precision`.
    """
    if not examples:
        return {}
    model.eval()
    logits: dict[int, np.ndarray] = {}
    for batch in evaluation_batches(examples, batch_tokens):
        with _autocast(model, precision):
            (output,) = model.infer(model.collate(batch).to(model.device)).values()
        per_token = output.dim() == 3
        for example, row in zip(batch, output.float().cpu().numpy(), strict=True):
            logits[id(example)] = row[: len(example)] if per_token else row
    task = model.tasks[examples[0].task]
    return task.predict(examples, [logits[id(example)] for example in examples])


def _step(
    model: MultiTaskModel,
    batch: Sequence[Example],
    optimizer: torch.optim.Optimizer,
    parameters: list[torch.nn.Parameter],
    training: Training,
) -> dict[str, torch.Tensor]:
    collated = model.collate(batch).to(model.device)
    with _autocast(model, training.precision):
        logits = model(collated)
    losses = model.losses(collated, logits)
    loss = mean_over_rows(losses)
    if not torch.isfinite(loss):
        raise DataError(f"Expected a finite training loss, but it became {loss.item()}; lower training.learning_rate.")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(parameters, training.clip_norm)
    optimizer.step()
    return {task: values.detach() for task, values in losses.items()}


def _autocast(model: MultiTaskModel, precision: str) -> AbstractContextManager[Any]:
    if precision == "float32" or (precision == "auto" and not _native_bfloat16(model.device)):
        return nullcontext()
    return torch.autocast(model.device.type, dtype=torch.bfloat16)


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def _cuda(model: MultiTaskModel) -> list[torch.device]:
    return [model.device] if model.device.type == "cuda" else []
