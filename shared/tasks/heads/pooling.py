"""The head of every task that reads one vector per text or pair of texts."""

import torch
from torch import nn

from shared.tasks.base import Pooling
from shared.tasks.heads.base import Head, Tensors


class PooledHead(Head):
    """One vector for the input, dropout, linear."""

    def __init__(self, hidden_size: int, outputs: int, dropout: float, pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden_size, outputs)

    def forward(self, states: torch.Tensor, mask: torch.Tensor, inputs: Tensors) -> torch.Tensor:
        """Logits [rows, outputs]."""
        logits: torch.Tensor = self.linear(self.dropout(self._pool(states, mask)))
        return logits

    def _pool(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.pooling == "cls":
            return states[:, 0]
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)
