"""The gradient of one batch: forward, combine the tasks' losses, backward."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from client.train.adversarial import perturbation, shifted_embeddings, watched_embeddings
from client.train.batching import micro_batches
from client.train.precision import autocast
from shared.federation import Training
from shared.model.balancing import BALANCERS
from shared.model.lora import adapted_layers
from shared.model.losses import backward_with_projection, gradient_norms, mean_over_rows, parts
from shared.model.multitask import Batch, MultiTaskModel
from shared.tasks import Example


@dataclass(frozen=True)
class Pass:
    """Rows that pass through a model together, and what they count."""

    model: MultiTaskModel
    batch: Batch
    """In main memory."""
    weights: Mapping[str, float]
    """What the loss of a task's rows is multiplied by, before the mean over all rows."""
    training: Training


Losses = dict[str, torch.Tensor]
"""The loss of every row, unweighted, by task: [rows of the task]."""
Passing = Callable[[Pass], Losses]
"""Adds the gradient of the rows' weighted mean loss to every trained parameter's `grad`."""


@dataclass(frozen=True)
class Measured:
    """What one batch showed, per task that it held."""

    losses: Losses
    norms: dict[str, float]
    """As `shared.model.balancing.Norms`; empty where the balancer does not need them."""

    def means(self) -> dict[str, float]:
        """The mean loss per row; of a batch without rows there is none. Waits for the device to compute them."""
        if not self.losses:
            return {}
        means = torch.stack([values.mean() for values in self.losses.values()]).tolist()
        return dict(zip(self.losses, means, strict=True))


def accumulate(
    model: MultiTaskModel,
    batch: Sequence[Example],
    training: Training,
    factors: Mapping[str, float],
    rng: np.random.Generator,
    passing: Passing | None = None,
) -> Measured:
    """Add the gradient of a batch's combined loss to every trained parameter's `grad`.

    Rows of similar length pass through the model together, as `micro_batches` says, except where `training.combine`
    compares the tasks' gradients of the batch. With `training.adversarial_epsilon`, the gradient of the same loss over
    perturbed embeddings is added to it.

    Args:
        model: In training mode.
        batch: Labelled examples, tasks mixed.
        training: How losses combine.
        factors: What the balancer multiplies each task's rows by; 1 where it says nothing.
        rng: Decides PCGrad's order.
        passing: How rows of a batch pass that is not to be passed as a whole, nor twice; `alone` by default.
    """
    measured = [
        _accumulate(model, micro, len(micro) / len(batch), training, factors, rng, passing or alone)
        for micro in ([batch] if passes_whole(training) else micro_batches(batch))
    ]
    losses: dict[str, list[torch.Tensor]] = {}
    for part in measured:
        for task, values in part.losses.items():
            losses.setdefault(task, []).append(values)
    return Measured({task: torch.cat(values) for task, values in losses.items()}, measured[0].norms)


def passes_whole(training: Training) -> bool:
    """Whether the gradients of a batch's tasks are compared, so that all its rows pass together."""
    return BALANCERS[training.combine].needs_norms or training.combine == "pcgrad"


def alone(rows: Pass) -> Losses:
    """A pass through the model by itself."""
    losses = _losses(rows.model, rows.batch.to(rows.model.device), rows.training)
    mean_over_rows(losses, rows.weights).backward()  # type: ignore[no-untyped-call]
    return {task: values.detach() for task, values in losses.items()}


def last_shared_layer(model: MultiTaskModel) -> list[torch.nn.Parameter]:
    """The adapter's parameters in the encoder's last adapted layer."""
    *_, last = adapted_layers(model.encoder).values()
    return [parameter for parameter in last.parameters() if parameter.requires_grad]


def _accumulate(
    model: MultiTaskModel,
    batch: Sequence[Example],
    share: float,
    training: Training,
    factors: Mapping[str, float],
    rng: np.random.Generator,
    passing: Passing,
) -> Measured:
    """The same of rows that are one `share` of a batch, in a single pass."""
    collated = model.collate(batch)
    weights = {task: share * model.tasks[task].weight * factors.get(task, 1.0) for task in collated.rows}
    epsilon = training.adversarial_epsilon
    if not epsilon and not passes_whole(training):
        return Measured(passing(Pass(model, collated, weights, training)), {})
    collated = collated.to(model.device)
    watching: AbstractContextManager[list[torch.Tensor]] = watched_embeddings(model) if epsilon else nullcontext([])
    with watching as embedded:
        losses = _losses(model, collated, training)
        needs_norms = BALANCERS[training.combine].needs_norms
        norms = gradient_norms(parts(losses), last_shared_layer(model)) if needs_norms else {}
        _backward(model, losses, weights, training, rng)
    for looked_up in embedded:
        assert looked_up.grad is not None
        with shifted_embeddings(model, perturbation(looked_up.grad, epsilon)):
            _backward(model, _losses(model, collated, training), weights, training, rng)
    return Measured({task: values.detach() for task, values in losses.items()}, norms)


def _losses(model: MultiTaskModel, batch: Batch, training: Training) -> dict[str, torch.Tensor]:
    with autocast(model.device, training.precision):
        logits = model(batch)
    return model.losses(batch, logits)


def _backward(
    model: MultiTaskModel,
    losses: Mapping[str, torch.Tensor],
    weights: Mapping[str, float],
    training: Training,
    rng: np.random.Generator,
) -> None:
    if training.combine == "pcgrad":
        shared = [parameter for parameter in model.flat.encoder if parameter.requires_grad]
        backward_with_projection(parts(losses, weights), shared, rng)
    else:
        mean_over_rows(losses, weights).backward()  # type: ignore[no-untyped-call]
