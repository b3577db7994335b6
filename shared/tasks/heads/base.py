"""What a head is: the part of a task that has parameters, and what the loss and the logits need beside them."""

from collections.abc import Sequence

import torch
from torch import nn

from shared.tasks.base import Example, Target

Tensors = dict[str, torch.Tensor]


class Head(nn.Module):
    """A task's head: `forward` computes what the loss reads, `infer` what `Task.predict` reads.

    It is made of its task, the backbone's frozen word embeddings [vocabulary, hidden] and the rate of dropout.
    """

    def forward(self, states: torch.Tensor, mask: torch.Tensor, inputs: Tensors) -> torch.Tensor:
        """Logits of rows with `states` [rows, length, hidden], `mask` [rows, length] and `inputs`."""
        raise NotImplementedError

    def infer(self, states: torch.Tensor, mask: torch.Tensor, inputs: Tensors) -> torch.Tensor:
        """The logits, unless a head decodes by itself."""
        logits: torch.Tensor = self(states, mask, inputs)
        return logits

    def inputs(self, examples: Sequence[Example], length: int) -> Tensors:
        """What `forward` needs beside the encoder's states, stacked over examples; most heads need nothing."""
        return {}

    def collate(self, targets: Sequence[Target], length: int) -> Tensors:
        """Stack the targets of several examples, padded to `length` sub-tokens where they are per token."""
        raise NotImplementedError

    def loss(self, logits: torch.Tensor, targets: Tensors) -> torch.Tensor:
        """The loss of each row, [rows]; depends on no other row, so that it may be clipped per example."""
        raise NotImplementedError


def padded(rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
    """Rows of different length as one tensor, at least one wide."""
    tensor = torch.full((len(rows), max(1, *map(len, rows))), filler, dtype=torch.long)
    for row, values in zip(tensor, rows, strict=True):
        row[: len(values)] = torch.tensor(values, dtype=torch.long)
    return tensor
