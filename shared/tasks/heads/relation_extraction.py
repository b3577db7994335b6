"""Relation extraction: the states of both first markers side by side, dropout, linear; cross-entropy."""

from collections.abc import Sequence

import torch
from torch import nn

from shared.tasks.base import Example, Target
from shared.tasks.heads.base import Head, Tensors
from shared.tasks.heads.labels import label_loss, label_tensors
from shared.tasks.relation_extraction import SIGNS, RelationExtraction


class EntityPairHead(Head):
    """The states of both first markers side by side, dropout, linear."""

    def __init__(self, task: RelationExtraction, embeddings: torch.Tensor, dropout: float) -> None:
        super().__init__()
        self.task = task
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(2 * embeddings.shape[1], len(task.labels))

    def forward(self, states: torch.Tensor, mask: torch.Tensor, inputs: Tensors) -> torch.Tensor:
        """Logits [rows, outputs]; `inputs` holds the markers' positions `head` and `tail`, [rows]."""
        rows = torch.arange(len(states), device=states.device)
        pair = torch.cat([states[rows, inputs["head"]], states[rows, inputs["tail"]]], dim=1)
        logits: torch.Tensor = self.linear(self.dropout(pair))
        return logits

    def inputs(self, examples: Sequence[Example], length: int) -> Tensors:
        """`head` and `tail`: [rows], positions of the first markers."""
        return {name: torch.tensor([example.inputs[name] for example in examples]) for name in SIGNS}

    def collate(self, targets: Sequence[Target], length: int) -> Tensors:
        """`labels`: [rows]."""
        return label_tensors(targets, self.task.labels)

    def loss(self, logits: torch.Tensor, targets: Tensors) -> torch.Tensor:
        """Cross-entropy of each row."""
        return label_loss(logits, targets, self.task.class_weights, self.task.label_smoothing)
