"""Text generation: a transformer decoder that writes with beam search; cross-entropy given the target so far."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from shared.tasks.base import IGNORE, Example, Target
from shared.tasks.heads.base import Tensors, padded
from shared.tasks.heads.decoder import DecoderHead
from shared.tasks.text_generation import TextGeneration


class WritingHead(DecoderHead):
    """The decoder as the task's table says."""

    def __init__(self, task: TextGeneration, embeddings: torch.Tensor, dropout: float) -> None:
        super().__init__(
            embeddings,
            layers=task.spec.layers,
            most=task.spec.max_target_tokens,
            beams=task.spec.beams,
            length_penalty=task.spec.length_penalty,
            dropout=dropout,
        )
        self.label_smoothing = task.spec.label_smoothing

    def inputs(self, examples: Sequence[Example], length: int) -> Tensors:
        """`given`: [rows, steps], [CLS] and the target but for its last sub-token; `end`: [rows]."""
        end = [example.inputs["end"] for example in examples]
        given = padded([example.inputs["given"] for example in examples], end[0])
        return {"given": given, "end": torch.tensor(end)}

    def collate(self, targets: Sequence[Target], length: int) -> Tensors:
        """`truth`: [rows, steps], the target and its end; IGNORE where a row has fewer."""
        return {"truth": padded([target["truth"] for target in targets], IGNORE)}

    def loss(self, logits: torch.Tensor, targets: Tensors) -> torch.Tensor:
        """Mean cross-entropy over the target's sub-tokens of each row."""
        truth = targets["truth"]
        losses = functional.cross_entropy(
            logits.flatten(0, 1),
            truth.flatten(),
            reduction="none",
            ignore_index=IGNORE,
            label_smoothing=self.label_smoothing,
        )
        return losses.view_as(truth).sum(1) / (truth != IGNORE).sum(1)
