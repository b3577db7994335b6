"""What the heads that choose one label of several share: their targets, and their loss."""

from collections.abc import Sequence

import torch

from shared.tasks.base import Target
from shared.tasks.heads.base import Tensors
from shared.tasks.heads.partial import cross_entropy, known_outputs
from shared.tasks.labels import ClassWeights


def label_tensors(targets: Sequence[Target], labels: Sequence[str]) -> Tensors:
    """`labels`: [rows], and `known` where some institution annotates only some of them."""
    return {"labels": torch.tensor([target["labels"] for target in targets])} | known_outputs(targets, len(labels))


def label_loss(
    logits: torch.Tensor, targets: Tensors, class_weights: ClassWeights | None, label_smoothing: float
) -> torch.Tensor:
    """Cross-entropy of each row, [rows], of logits [rows, labels]."""
    weight = None if class_weights is None else logits.new_tensor(class_weights)
    return cross_entropy(
        logits, targets["labels"], targets.get("known"), weight=weight, label_smoothing=label_smoothing
    )
