"""A small transformer decoder over the encoder's states, and the beam search that writes with it.

The decoder is BertSumAbs's (Liu and Lapata 2019) made small: it reads the backbone's frozen word embeddings, and its
output is tied to them, so that only its layers, two norms and the output's bias are sent.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from shared.tasks.heads.base import Head, Tensors
from shared.tasks.heads.extractive_summarization import sinusoids
from shared.tasks.heads.vocabulary import TiedOutput

HEAD_SIZE = 64
"""Width of an attention head, as in BERT."""
KeysAndValues = tuple[torch.Tensor, torch.Tensor]
"""What attention looks up, both [rows, heads, length, width of a head]."""
Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Log-likelihoods [n, vocabulary] of what follows, given the last sub-token of each hypothesis, [n], and, [n], which
hypothesis of the step before it continues."""


class DecoderHead(Head):
    """Writes a text, sub-token by sub-token, looking at the encoder's states.

    Args:
        embeddings: The backbone's word embeddings, [vocabulary, hidden].
        layers: Transformer layers.
        most: Most sub-tokens of a text, its end included.
        beams: Hypotheses kept in the search.
        length_penalty: The exponent alpha of `beam_search`.
        dropout: After the embeddings and after every part of a layer.
    """

    def __init__(
        self, embeddings: torch.Tensor, *, layers: int, most: int, beams: int, length_penalty: float, dropout: float
    ) -> None:
        super().__init__()
        hidden = embeddings.shape[1]
        self.most, self.beams, self.length_penalty = most, beams, length_penalty
        self._embeddings = (embeddings,)  # the backbone's, so no parameter of the head: modules do not see a tuple
        self.embedding_norm = nn.LayerNorm(hidden)
        self.layers = nn.ModuleList(DecoderLayer(hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)
        self.output = TiedOutput(embeddings)

    def forward(self, states: torch.Tensor, mask: torch.Tensor, inputs: Tensors) -> torch.Tensor:
        """Logits [rows, steps, vocabulary] of what follows each sub-token of `given` [rows, steps]."""
        decoded, _ = self._decode(inputs["given"], self._memory(states), mask[:, None, None, :].bool(), None)
        logits: torch.Tensor = self.output(decoded)
        return logits

    def infer(self, states: torch.Tensor, mask: torch.Tensor, inputs: Tensors) -> torch.Tensor:
        """The sub-tokens of the best text, [rows, steps], as written after the first of `given` and up to `end` [rows].

        What stands after a row's end is `end` again.
        """
        memory = [
            (k.repeat_interleave(self.beams, 0), v.repeat_interleave(self.beams, 0)) for k, v in self._memory(states)
        ]
        seen = mask[:, None, None, :].bool().repeat_interleave(self.beams, 0)
        past: list[KeysAndValues] | None = None

        def step(last: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
            nonlocal past
            kept = None if past is None else [(keys[origin], values[origin]) for keys, values in past]
            decoded, past = self._decode(last.unsqueeze(1), memory, seen, kept)
            likelihoods: torch.Tensor = self.output(decoded).squeeze(1).float().log_softmax(-1)
            return likelihoods

        return beam_search(
            step,
            inputs["given"][:, 0],
            inputs["end"],
            beams=self.beams,
            most=self.most,
            length_penalty=self.length_penalty,
        )

    def _memory(self, states: torch.Tensor) -> list[KeysAndValues]:
        """What each layer looks up in the encoder's states."""
        return [layer.across.look_up(states) for layer in self._layers()]

    def _decode(
        self,
        ids: torch.Tensor,
        memory: Sequence[KeysAndValues],
        seen: torch.Tensor,
        past: Sequence[KeysAndValues] | None,
    ) -> tuple[torch.Tensor, list[KeysAndValues]]:
        """States [rows, steps, hidden] of sub-tokens that follow `past`, and what they add to it."""
        start = past[0][0].shape[2] if past else 0
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)
        states = self.embedding_norm(functional.embedding(ids, self._embeddings[0]))
        states = self.dropout(states + sinusoids(positions, states.shape[2]).to(states.dtype))
        present = []
        for number, layer in enumerate(self._layers()):
            states, kept = layer(states, memory[number], seen, past[number] if past else None)
            present.append(kept)
        return self.norm(states), present

    def _layers(self) -> list["DecoderLayer"]:
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]


class DecoderLayer(nn.Module):
    """Attention to what is written, attention to the source, feed-forward; each normalised before, twice as wide."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.back_norm, self.across_norm, self.feed_norm = (nn.LayerNorm(hidden) for _ in range(3))
        self.back, self.across = Attention(hidden), Attention(hidden)
        self.widen, self.narrow = nn.Linear(hidden, 2 * hidden), nn.Linear(2 * hidden, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, states: torch.Tensor, memory: KeysAndValues, seen: torch.Tensor, past: KeysAndValues | None
    ) -> tuple[torch.Tensor, KeysAndValues]:
        """From and to [rows, steps, hidden]; with `past` there is one step, else each step sees those before it."""
        normed = self.back_norm(states)
        keys, values = self.back.look_up(normed)
        if past is not None:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        states = states + self.dropout(self.back(normed, (keys, values), causal=past is None))
        states = states + self.dropout(self.across(self.across_norm(states), memory, seen=seen))
        widened = self.dropout(functional.gelu(self.widen(self.feed_norm(states))))
        return states + self.dropout(self.narrow(widened)), (keys, values)


class Attention(nn.Module):
    """Multi-head attention. The key has no bias: it would shift all scores of a query alike, unseen by the softmax."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.heads = math.gcd(hidden, max(1, hidden // HEAD_SIZE))
        self.query, self.output, self.value = (nn.Linear(hidden, hidden) for _ in range(3))
        self.key = nn.Linear(hidden, hidden, bias=False)

    def look_up(self, states: torch.Tensor) -> KeysAndValues:
        """Keys and values of states [rows, length, hidden]."""
        return self._split(self.key(states)), self._split(self.value(states))

    def forward(
        self,
        states: torch.Tensor,
        looked_up: KeysAndValues,
        *,
        seen: torch.Tensor | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        """From and to [rows, steps, hidden]; `seen` [rows, 1, 1, length] says what may be looked at."""
        attended = functional.scaled_dot_product_attention(
            self._split(self.query(states)), *looked_up, attn_mask=seen, is_causal=causal
        )
        output: torch.Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return output

    def _split(self, states: torch.Tensor) -> torch.Tensor:
        return states.view(*states.shape[:2], self.heads, -1).transpose(1, 2)


def beam_search(
    step: Step, start: torch.Tensor, end: torch.Tensor, *, beams: int, most: int, length_penalty: float
) -> torch.Tensor:
    """The likeliest continuations of each row, several rows at once.

    A hypothesis of n sub-tokens, its end included, scores the sum of their log-likelihoods over ((5 + n) / 6)^alpha
    (Wu et al. 2016, equation 14, without coverage). Each step keeps the best `beams` of the ended hypotheses and of all
    continuations of the others: one beam is greedy search, and as many beams as there are texts find the best of all.
    The search stops when no open hypothesis can overtake the best one, which has ended, or after `most` sub-tokens.

    Args:
        step: Gives the log-likelihoods of what follows; called with hypotheses row by row, [rows * beams].
        start: The sub-token that each row begins with, [rows]; not part of the result.
        end: The sub-token that ends a row, [rows].
        beams: Hypotheses kept for each row.
        most: Most sub-tokens of a hypothesis.
        length_penalty: alpha; 0 or more, 0 compares sums, more favours longer texts.

    Returns:
        [rows, at most `most`] sub-tokens; after a row's end there is `end` again.
    """
    rows, device = len(start), start.device
    hypothesis = torch.arange(rows, device=device).unsqueeze(1) * beams  # number of each row's first one
    ids = torch.empty(rows, beams, 0, dtype=torch.long, device=device)
    last, origin = start.repeat_interleave(beams), torch.arange(rows * beams, device=device)
    total = torch.full((rows, beams), -torch.inf, device=device)
    total[:, 0] = 0.0  # all hypotheses of a row are one at first
    lengths = torch.zeros(rows, beams, device=device)
    ended = torch.zeros(rows, beams, dtype=torch.bool, device=device)
    ends = end[:, None, None].expand(-1, beams, 1)
    for _ in range(most):
        likelihoods = step(last, origin).view(rows, beams, -1)
        stop = likelihoods.gather(2, ends).masked_fill(ended.unsqueeze(2), 0.0)
        likelihoods = likelihoods.masked_fill(ended.unsqueeze(2), -torch.inf).scatter(2, ends, stop)
        lengths = lengths + ~ended
        sums = total.unsqueeze(2) + likelihoods
        ranks = sums / _penalty(lengths, length_penalty).unsqueeze(2)
        best = ranks.flatten(1).topk(beams)
        beam, token = best.indices // likelihoods.shape[2], best.indices % likelihoods.shape[2]
        total = sums.flatten(1).gather(1, best.indices)
        lengths, ended = lengths.gather(1, beam), ended.gather(1, beam) | (token == end.unsqueeze(1))
        ids = torch.cat([ids.gather(1, beam.unsqueeze(2).expand(-1, -1, ids.shape[2])), token.unsqueeze(2)], 2)
        last, origin = token.flatten(), (hypothesis + beam).flatten()
        hope = total.masked_fill(ended, -torch.inf).max(1).values / _penalty(torch.tensor(float(most)), length_penalty)
        if bool((ended[:, 0] & (best.values[:, 0] >= hope)).all()):
            break
    return ids[:, 0]


def _penalty(lengths: torch.Tensor, alpha: float) -> torch.Tensor:
    return ((5 + lengths) / 6) ** alpha
