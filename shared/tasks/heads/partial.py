"""Institutions that annotate only some labels of a task: what they leave out must not be taught away.

An example's target may hold `known`, one boolean per output of the head: whether the institution annotates its label.
A text that bears one label is then classified among the known ones alone; a word without an entity of a known type is
`O` *or* an entity of an unknown type, so the probability of the latter is added to that of `O` (marginalised), and no
gradient pushes it down.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional

from shared.tasks.base import IGNORE, Target
from shared.tasks.heads.base import Tensors

NEVER = -1e4
"""The logit of an output that is left out: its probability is zero in float32, and zero times it is not NaN."""


def known_outputs(targets: Sequence[Target], outputs: int) -> Tensors:
    """`known`: booleans [rows, outputs]; nothing where every row's institution annotates everything."""
    if not any("known" in target for target in targets):
        return {}
    everything = (True,) * outputs
    return {"known": torch.tensor([target.get("known", everything) for target in targets])}


def cross_entropy(
    logits: torch.Tensor,
    gold: torch.Tensor,
    known: torch.Tensor | None = None,
    *,
    weight: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Cross-entropy, element by element, among the labels that the row's institution annotates.

    Args:
        logits: [rows, ..., labels].
        gold: [rows, ...]; zero loss where it is -100.
        known: [rows, labels]; None if every institution annotates everything.
        weight: What the loss of a label is multiplied by, [labels].
        label_smoothing: Share of the target that is spread evenly over the known labels (Szegedy et al. 2016).

    Returns:
        Losses shaped as `gold`.
    """
    if known is None:
        return functional.cross_entropy(
            logits.movedim(-1, 1), gold, weight=weight, label_smoothing=label_smoothing, reduction="none"
        )
    known = known.reshape(len(known), *(1,) * (gold.dim() - 1), -1)
    losses = -torch.log_softmax(logits.masked_fill(~known, NEVER), dim=-1)
    if weight is not None:
        losses = losses * weight
    chosen = losses.gather(-1, gold.clamp(min=0)[..., None]).squeeze(-1)
    if label_smoothing:
        spread = (losses * known).sum(-1) / known.sum(-1)
        chosen = (1 - label_smoothing) * chosen + label_smoothing * spread
    return chosen.masked_fill(gold == IGNORE, 0.0)


def fold_unknown(logits: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Add the probability of unknown outputs to that of the first, `O`.

    Args:
        logits: [rows, length, outputs].
        known: [rows, outputs]; the first is always known.

    Returns:
        Logits [rows, length, outputs] in which an unknown output has no probability.
    """
    hidden = ~known[:, None, :]
    outside = known.clone()
    outside[:, 1:] = False
    pooled = logits.masked_fill((known & ~outside)[:, None, :], -torch.inf).logsumexp(-1)
    folded = logits.masked_fill(hidden, NEVER)
    return torch.cat([pooled[..., None], folded[..., 1:]], dim=-1)
