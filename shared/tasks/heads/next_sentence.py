"""Next sentence prediction: [CLS], dropout, linear; cross-entropy."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from shared.tasks.base import Target
from shared.tasks.heads.base import Tensors
from shared.tasks.heads.pooling import PooledHead
from shared.tasks.next_sentence import NextSentencePrediction


class NextSentenceHead(PooledHead):
    """Logits [rows, 2] of not following and of following."""

    def __init__(self, task: NextSentencePrediction, embeddings: torch.Tensor, dropout: float) -> None:
        super().__init__(embeddings.shape[1], 2, dropout, "cls")

    def collate(self, targets: Sequence[Target], length: int) -> Tensors:
        """`follows`: [rows], 1 where the second sentence does follow the first."""
        return {"follows": torch.tensor([target["follows"] for target in targets])}

    def loss(self, logits: torch.Tensor, targets: Tensors) -> torch.Tensor:
        """Cross-entropy of each row."""
        return functional.cross_entropy(logits, targets["follows"], reduction="none")
