"""Two texts read together: the mean over both or [CLS], dropout, linear."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from shared.tasks.base import Target
from shared.tasks.heads.base import Tensors
from shared.tasks.heads.labels import label_loss, label_tensors
from shared.tasks.heads.pooling import PooledHead
from shared.tasks.text_pair import SentenceSimilarity, TextPairClassification


class PairHead(PooledHead):
    """The label of a pair: logits [rows, labels]."""

    def __init__(self, task: TextPairClassification, embeddings: torch.Tensor, dropout: float) -> None:
        super().__init__(embeddings.shape[1], len(task.labels), dropout, task.pooling)
        self.task = task

    def collate(self, targets: Sequence[Target], length: int) -> Tensors:
        """`labels`: [rows]."""
        return label_tensors(targets, self.task.labels)

    def loss(self, logits: torch.Tensor, targets: Tensors) -> torch.Tensor:
        """Cross-entropy of each row."""
        return label_loss(logits, targets, self.task.class_weights, self.task.label_smoothing)


class SimilarityHead(PooledHead):
    """How much alike a pair is: one number, [rows, 1]."""

    def __init__(self, task: SentenceSimilarity, embeddings: torch.Tensor, dropout: float) -> None:
        super().__init__(embeddings.shape[1], 1, dropout, task.pooling)

    def collate(self, targets: Sequence[Target], length: int) -> Tensors:
        """`score`: [rows], in [0, 1]."""
        return {"score": torch.tensor([target["score"] for target in targets], dtype=torch.float32)}

    def loss(self, logits: torch.Tensor, targets: Tensors) -> torch.Tensor:
        """Squared error of each row."""
        return functional.mse_loss(logits.squeeze(1), targets["score"], reduction="none")
