"""Scores over the vocabulary from the backbone's frozen word embeddings, for heads that answer with words."""

import torch
from torch import nn
from torch.nn import functional


class TiedOutput(nn.Module):
    """The output layer tied to the word embeddings (Press and Wolf 2017), with a trainable bias per sub-token.

    Frozen embeddings make this cheap to send: only the bias is the head's own.

    Args:
        embeddings: The backbone's word embeddings, [vocabulary, hidden].
    """

    def __init__(self, embeddings: torch.Tensor) -> None:
        super().__init__()
        self._embeddings = (embeddings,)  # the backbone's, so no parameter of the head: modules do not see a tuple
        # A linear layer from a constant one, because per-sample gradients are taken layer by layer.
        self.bias = nn.Linear(1, embeddings.shape[0], bias=False)
        nn.init.zeros_(self.bias.weight)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Logits [rows, places, vocabulary] of states [rows, places, hidden]."""
        bias: torch.Tensor = self.bias(states.new_ones(len(states), 1, 1))
        return functional.linear(states, self._embeddings[0]) + bias
