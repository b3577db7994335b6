"""Text classification: the mean over the text or [CLS], dropout, linear; cross-entropy, or of several labels binary."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from shared.tasks.base import Target
from shared.tasks.heads.base import Tensors
from shared.tasks.heads.labels import label_loss, label_tensors
from shared.tasks.heads.pooling import PooledHead
from shared.tasks.text_classification import TextClassification


class TextHead(PooledHead):
    """Logits [rows, labels]."""

    def __init__(self, task: TextClassification, embeddings: torch.Tensor, dropout: float) -> None:
        super().__init__(embeddings.shape[1], len(task.labels), dropout, task.pooling)
        self.task = task

    def collate(self, targets: Sequence[Target], length: int) -> Tensors:
        """`labels`: [rows], or [rows, labels] of zeros and ones."""
        tensors = label_tensors(targets, self.task.labels)
        return tensors | {"labels": tensors["labels"].float()} if self.task.multi_label else tensors

    def loss(self, logits: torch.Tensor, targets: Tensors) -> torch.Tensor:
        """Cross-entropy, or mean binary cross-entropy, of each row."""
        task = self.task
        if not task.multi_label:
            return label_loss(logits, targets, task.class_weights, task.label_smoothing)
        gold = targets["labels"]
        weights = None if task.class_weights is None else logits.new_tensor(task.class_weights)
        losses = functional.binary_cross_entropy_with_logits(logits, gold, pos_weight=weights, reduction="none")
        known = targets.get("known", torch.ones_like(gold, dtype=torch.bool))
        return (losses * known).sum(1) / known.sum(1)
