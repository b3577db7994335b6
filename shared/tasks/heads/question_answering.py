"""Question answering: dropout and linear to a start and an end score per sub-token; cross-entropy of both places."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from shared.tasks.base import Target
from shared.tasks.heads.base import Head, Tensors
from shared.tasks.question_answering import QuestionAnswering


class SpanHead(Head):
    """Dropout and a linear layer to a start and an end score per sub-token.

    Padding scores minus infinity: the loss is a softmax over positions, and must not depend on how long the batch is.
    """

    def __init__(self, task: QuestionAnswering, embeddings: torch.Tensor, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        # No bias: it would shift all positions alike, which the softmax and the choice of a span do not see, so that
        # its gradient is rounding noise.
        self.linear = nn.Linear(embeddings.shape[1], 2, bias=False)

    def forward(self, states: torch.Tensor, mask: torch.Tensor, inputs: Tensors) -> torch.Tensor:
        """Logits [rows, length, 2]."""
        scores: torch.Tensor = self.linear(self.dropout(states))
        return scores.masked_fill(mask.unsqueeze(-1) == 0, -torch.inf)

    def collate(self, targets: Sequence[Target], length: int) -> Tensors:
        """`start` and `end`: [rows], positions in the window, 0 where it holds no answer."""
        return {key: torch.tensor([target[key] for target in targets]) for key in ("start", "end")}

    def loss(self, logits: torch.Tensor, targets: Tensors) -> torch.Tensor:
        """Mean of the start's and the end's cross-entropy, of each row."""
        losses = [
            functional.cross_entropy(logits[..., i], targets[key], reduction="none")
            for i, key in enumerate(("start", "end"))
        ]
        return (losses[0] + losses[1]) / 2
