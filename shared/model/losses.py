"""How the losses of several tasks become one descent.

The default is the mean over the rows of a mixed batch, each row times its task's fixed weight. `balancing` moves
those weights while training; `project_conflicts` leaves them, and changes the gradients instead.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

TINY = torch.finfo(torch.float32).tiny
"""In the place of zero where a gradient's square divides what is zero then."""
Gradient = Sequence[torch.Tensor]
"""One tensor per parameter."""


def mean_over_rows(losses: Mapping[str, torch.Tensor], weights: Mapping[str, float] | None = None) -> torch.Tensor:
    """The mean over all rows of a mixed batch, each times the weight of its task.

    L = 1/N * sum_t w_t * sum_i l_ti over the N rows of the batch: the sum is divided by the number of rows, not by the
    sum of weights, so that a row's share does not depend on which other tasks are in its batch. With all weights 1
    every record counts the same, whatever its task.

    Args:
        losses: Per task, the loss of each row, [rows of the task].
        weights: Per task; 1 where none is given.

    Returns:
        A scalar.
    """
    weights = weights or {}
    return torch.cat([values * weights.get(task, 1.0) for task, values in losses.items()]).mean()


def parts(losses: Mapping[str, torch.Tensor], weights: Mapping[str, float] | None = None) -> dict[str, torch.Tensor]:
    """What each task contributes to `mean_over_rows`: scalars that add up to it."""
    weights = weights or {}
    rows = sum(len(values) for values in losses.values())
    return {task: values.sum() * (weights.get(task, 1.0) / rows) for task, values in losses.items()}


def project_conflicts(gradients: Sequence[Gradient], rng: np.random.Generator) -> list[torch.Tensor]:
    """PCGrad: from each task's gradient, take away what points against another task's; the sum of what is left.

    For every task i, and every other task j in random order: where g_i . g_j < 0, g_i becomes
    g_i - (g_i . g_j) / |g_j|^2 * g_j, with g_j as it was at first (Yu et al. 2020, arXiv 2001.06782, algorithm 1).

    Args:
        gradients: Per task, its gradient with respect to the same parameters.
        rng: Decides the order.

    Returns:
        One tensor per parameter.
    """
    shapes = [tensor.shape for tensor in gradients[0]]
    flat = torch.stack([torch.cat([tensor.flatten() for tensor in gradient]) for gradient in gradients])
    total = torch.zeros_like(flat[0])
    for i, own in enumerate(flat):
        projected = own.clone()
        for j in rng.permutation(len(flat)).tolist():
            if j != i:  # a product that is not negative becomes zero, so that nobody waits to compare it
                along = torch.dot(projected, flat[j]).clamp(max=0)
                projected -= along / torch.dot(flat[j], flat[j]).clamp(min=TINY) * flat[j]
        total += projected
    pieces = torch.split(total, [shape.numel() for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def backward_with_projection(
    losses: Mapping[str, torch.Tensor], shared: Sequence[torch.nn.Parameter], rng: np.random.Generator
) -> None:
    """Add PCGrad's gradient to `grad` of the shared parameters, and the plain one to that of all others.

    Args:
        losses: Per task, the scalar that it contributes to the loss.
        shared: The parameters that several tasks train; a head belongs to one task, so that nothing conflicts there.
        rng: Decides the order of the projections.
    """
    before = [parameter.grad for parameter in shared]
    gradients = []
    left = len(losses)
    for loss in losses.values():
        left -= 1
        for parameter in shared:
            parameter.grad = None
        loss.backward(retain_graph=left > 0)  # type: ignore[no-untyped-call]
        gradients.append([torch.zeros_like(p) if p.grad is None else p.grad for p in shared])
    for parameter, earlier, gradient in zip(shared, before, project_conflicts(gradients, rng), strict=True):
        parameter.grad = gradient if earlier is None else earlier + gradient


def gradient_norms(losses: Mapping[str, torch.Tensor], parameters: Sequence[torch.nn.Parameter]) -> dict[str, float]:
    """The Euclidean norm of each scalar loss's gradient with respect to `parameters`; `grad` stays as it is."""
    norms = []
    for loss in losses.values():
        gradient = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        norms.append(torch.nn.utils.get_total_norm([piece for piece in gradient if piece is not None]))
    return dict(zip(losses, torch.stack(norms).tolist(), strict=True)) if norms else {}
