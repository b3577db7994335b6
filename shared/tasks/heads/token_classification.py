"""Token classification: dropout and linear on every sub-token; cross-entropy over those that carry a word's tag."""

from collections.abc import Sequence

import torch
from torch import nn

from shared.tasks.base import IGNORE, Target
from shared.tasks.heads.base import Head, Tensors
from shared.tasks.heads.partial import cross_entropy, fold_unknown, known_outputs
from shared.tasks.token_classification import TokenClassification


class TokenHead(Head):
    """Dropout and one linear layer on every sub-token."""

    def __init__(self, task: TokenClassification, embeddings: torch.Tensor, dropout: float) -> None:
        super().__init__()
        self.task = task
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(embeddings.shape[1], len(task.tags))

    def forward(self, states: torch.Tensor, mask: torch.Tensor, inputs: Tensors) -> torch.Tensor:
        """Logits [rows, length, outputs]."""
        logits: torch.Tensor = self.linear(self.dropout(states))
        return logits

    def collate(self, targets: Sequence[Target], length: int) -> Tensors:
        """`tags`: [rows, length], IGNORE where a sub-token carries none."""
        tags = torch.full((len(targets), length), IGNORE, dtype=torch.long)
        for row, target in enumerate(targets):
            tags[row, : len(target["tags"])] = torch.tensor(target["tags"])
        return {"tags": tags} | known_outputs(targets, len(self.task.tags))

    def loss(self, logits: torch.Tensor, targets: Tensors) -> torch.Tensor:
        """Mean cross-entropy over the words of each row; zero for a row without words."""
        tags = targets["tags"]
        if "known" in targets:
            logits = fold_unknown(logits, targets["known"])
        losses = cross_entropy(logits, tags, targets.get("known"), label_smoothing=self.task.label_smoothing)
        return losses.sum(1) / (tags != IGNORE).sum(1).clamp(min=1)
