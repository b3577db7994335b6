"""How much each component of the adapter matters to the loss (AdaLoRA: Zhang et al. 2023, arXiv 2303.10512, 3.2).

The paper writes a layer's product as P Lambda Q. Ours is B A: B has Lambda in it, and with a factor lambda_k = 1 before
component k, the derivative of the loss by it is sum_i B_ik dL/dB_ik. So component k has the paper's three parts:

    S_k = s(lambda_k) + mean_i s(B_ik) + mean_j s(A_kj), with s(w) = I(w) U(w),
    where after every backward pass, from 0 at the start of a round,
    I(w) = beta_1 I(w) + (1 - beta_1) |w dL/dw|
    U(w) = beta_2 U(w) + (1 - beta_2) | |w dL/dw| - I(w) |

None of it depends on how a component's length is shared between its column of B and its row of A.
"""

from dataclasses import dataclass

import numpy as np
import torch
from peft import PeftModel

from client.train.hooks import Hook
from shared.codec import Arrays
from shared.model.lora import factors, lora_layers

BETA_1 = 0.85
"""How slowly a weight's sensitivity is forgotten."""
BETA_2 = 0.85
"""How slowly its uncertainty is forgotten."""


@dataclass(frozen=True)
class Smoothed:
    """Weights' sensitivity and its uncertainty so far, both of the weights' shape; changed in place."""

    mean: torch.Tensor
    uncertainty: torch.Tensor

    def add(self, sensitivity: torch.Tensor) -> None:
        """Take in |w dL/dw| of one backward pass."""
        self.mean.lerp_(sensitivity, 1 - BETA_1)
        self.uncertainty.lerp_((sensitivity - self.mean).abs_(), 1 - BETA_2)

    def scores(self) -> torch.Tensor:
        """s(w)."""
        return self.mean * self.uncertainty


class Importance(Hook):
    """Watches the gradients of one round of training."""

    remembers = True

    def __init__(self, encoder: PeftModel) -> None:
        self._pairs = {name: factors(layer) for name, layer in lora_layers(encoder).items()}
        self._smoothed: dict[str, tuple[Smoothed, Smoothed, Smoothed]] = {}
        for name, pair in self._pairs.items():
            a, b = pair["A"].detach(), pair["B"].detach()
            watched = (a[:, 0], b, a)
            self._smoothed[name] = (*(Smoothed(torch.zeros_like(w), torch.zeros_like(w)) for w in watched),)  # type: ignore[assignment]

    @torch.no_grad()
    def on_gradient(self) -> None:
        """Take in the gradients; a factor without one has no influence."""
        for name, (scale, column, row) in self._smoothed.items():
            a, b = (_by_gradient(self._pairs[name][factor]) for factor in ("A", "B"))
            scale.add(b.sum(0).abs())
            column.add(b.abs())
            row.add(a.abs())

    def shares(self) -> Arrays:
        """Every component's share in the importance of all: float32 [rank] per layer.

        Shares add up to 1, so that institutions count alike however large their gradients are; all are 0 if no step
        was taken.
        """
        scores = {
            name: (scale.scores() + column.scores().mean(0) + row.scores().mean(1)).cpu().double()
            for name, (scale, column, row) in self._smoothed.items()
        }
        total = sum(float(score.sum()) for score in scores.values()) or 1.0
        return {name: (score / total).numpy().astype(np.float32) for name, score in scores.items()}


def _by_gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Each weight times its gradient."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter * parameter.grad
