"""Extractive summarisation: a score for each sentence, which may see the others; binary cross-entropy (BERTSUM)."""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from shared.tasks.base import Example, Target
from shared.tasks.extractive_summarization import LAYERS, ExtractiveSummarization
from shared.tasks.heads.base import Head, Tensors, padded

ATTENTION_HEADS = 8
PADDING = -1
"""In place of a sentence's position or label, where a row has fewer sentences than another."""


class SentenceHead(Head):
    """A score for each sentence from its state; reads `positions`, `ends` and `first` of `inputs`."""

    def __init__(self, task: ExtractiveSummarization, embeddings: torch.Tensor, dropout: float) -> None:
        super().__init__()
        hidden_size = embeddings.shape[1]
        layers = LAYERS if task.spec.head == "transformer" else 0
        self.sentence_state = task.spec.sentence_state
        self.layers = nn.ModuleList(InterSentenceLayer(hidden_size, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden_size, eps=1e-6) if layers else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden_size, 1)

    def forward(self, states: torch.Tensor, mask: torch.Tensor, inputs: Tensors) -> torch.Tensor:
        """Logits [rows, sentences]; those of padding mean nothing."""
        places, first = inputs["positions"], inputs["first"]
        present = places != PADDING
        rows = torch.arange(len(places), device=places.device).unsqueeze(1)
        if self.sentence_state == "cls":
            sentences = states[rows, places.clamp(min=0)]
        else:
            sentences = _means(states, places.clamp(min=0), inputs["ends"].clamp(min=1))
        if self.layers:
            order = first.unsqueeze(1) + torch.arange(places.shape[1], device=places.device)
            sentences = self.dropout(sentences + sinusoids(order, states.shape[2]).to(sentences.dtype))
            for layer in self.layers:
                sentences = layer(sentences, present)
        logits: torch.Tensor = self.linear(self.dropout(self.norm(sentences))).squeeze(-1)
        return logits

    def inputs(self, examples: Sequence[Example], length: int) -> Tensors:
        """`positions` and `ends` [rows, sentences]: of each sentence's [CLS] and after its [SEP], or PADDING.

        `first` [rows]: the window's first sentence.
        """
        spans = {
            name: padded([example.inputs[name] for example in examples], PADDING) for name in ("positions", "ends")
        }
        return spans | {"first": torch.tensor([example.inputs["first"] for example in examples])}

    def collate(self, targets: Sequence[Target], length: int) -> Tensors:
        """`chosen`: [rows, sentences] of ones and zeros, or PADDING."""
        return {"chosen": padded([target["chosen"] for target in targets], PADDING)}

    def loss(self, logits: torch.Tensor, targets: Tensors) -> torch.Tensor:
        """Mean binary cross-entropy over the sentences of each row."""
        chosen = targets["chosen"]
        present = (chosen != PADDING).to(logits.dtype)
        labels = chosen.clamp(min=0).to(logits.dtype)
        losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return (losses * present).sum(1) / present.sum(1)


class InterSentenceLayer(nn.Module):
    """A transformer layer over the sentences of a row, normalised before each part; twice as wide in the middle.

    The key has no bias: it would shift a query's scores of all sentences alike, which the softmax does not see.
    """

    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.heads = math.gcd(hidden_size, ATTENTION_HEADS)
        self.attention_norm = nn.LayerNorm(hidden_size, eps=1e-6)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.feed_norm = nn.LayerNorm(hidden_size, eps=1e-6)
        self.widen = nn.Linear(hidden_size, 2 * hidden_size)
        self.narrow = nn.Linear(2 * hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, sentences: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """From and to [rows, sentences, hidden]; only sentences `present` [rows, sentences] are attended to."""
        normed = self.attention_norm(sentences)
        query, key, value = (
            part(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=present[:, None, None, :])
        sentences = sentences + self.dropout(self.output(attended.transpose(1, 2).flatten(2)))
        widened = functional.gelu(self.widen(self.feed_norm(sentences)))
        fed: torch.Tensor = sentences + self.dropout(self.narrow(self.dropout(widened)))
        return fed


def sinusoids(positions: torch.Tensor, size: int) -> torch.Tensor:
    """Position encodings [..., size] of integer positions [...]: Vaswani et al. 2017, section 3.5; `size` is even."""
    rates = torch.exp(torch.arange(0, size, 2, device=positions.device) * (-math.log(10_000.0) / size))
    angles = positions.unsqueeze(-1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def _means(states: torch.Tensor, starts: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Means [rows, spans, hidden] of states [rows, length, hidden] over spans [rows, spans]; the end is not in it."""
    sums = functional.pad(states.float().cumsum(dim=1), (0, 0, 1, 0))
    rows = torch.arange(len(starts), device=starts.device).unsqueeze(1)
    means: torch.Tensor = (sums[rows, ends] - sums[rows, starts]) / (ends - starts).clamp(min=1).unsqueeze(-1)
    return means
