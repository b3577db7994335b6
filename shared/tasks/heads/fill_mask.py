"""Masked language modelling: BERT's transform at the masked places, then the output tied to the word embeddings."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from shared.tasks.base import IGNORE, Example, Target
from shared.tasks.fill_mask import BEST, FillMask
from shared.tasks.heads.base import Head, Tensors, padded
from shared.tasks.heads.vocabulary import TiedOutput


class FillMaskHead(Head):
    """BERT's: linear, GELU and layer norm at the masked places, then the output tied to the word embeddings."""

    def __init__(self, task: FillMask, embeddings: torch.Tensor, dropout: float) -> None:
        super().__init__()
        hidden = embeddings.shape[1]
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-12)
        self.output = TiedOutput(embeddings)

    def forward(self, states: torch.Tensor, mask: torch.Tensor, inputs: Tensors) -> torch.Tensor:
        """Logits [rows, places, vocabulary] at `positions` [rows, places]."""
        positions = inputs["positions"].unsqueeze(-1).expand(-1, -1, states.shape[-1])
        places = self.dropout(states.gather(1, positions))
        logits: torch.Tensor = self.output(self.norm(functional.gelu(self.linear(places))))
        return logits

    def infer(self, states: torch.Tensor, mask: torch.Tensor, inputs: Tensors) -> torch.Tensor:
        """Only what `predict` needs of each place, [rows, places, 1 + 2 * BEST].

        The log-likelihood of `truth` [rows, places], the BEST highest log-likelihoods, and whose they are.
        """
        logits = self(states, mask, inputs).float()
        norm = logits.logsumexp(-1, keepdim=True)
        best = logits.topk(BEST)
        truth = logits.gather(-1, inputs["truth"].unsqueeze(-1))
        return torch.cat([truth - norm, best.values - norm, best.indices.float()], dim=-1)

    def inputs(self, examples: Sequence[Example], length: int) -> Tensors:
        """`positions` and `truth`: [rows, places], 0 where a row has fewer or the truth is unknown."""
        return {key: padded([example.inputs[key] for example in examples], 0) for key in ("positions", "truth")}

    def collate(self, targets: Sequence[Target], length: int) -> Tensors:
        """`truth`: [rows, places], IGNORE where a row has fewer."""
        return {"truth": padded([target["truth"] for target in targets], IGNORE)}

    def loss(self, logits: torch.Tensor, targets: Tensors) -> torch.Tensor:
        """Mean cross-entropy over the masked sub-tokens of each row; zero for a row without any."""
        truth = targets["truth"]
        losses = functional.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="none", ignore_index=IGNORE)
        return losses.view_as(truth).sum(1) / (truth != IGNORE).sum(1).clamp(min=1)
