"""Adversarial training on word embeddings by the fast gradient method (Miyato et al. 2017, arXiv 1605.07725).

The embeddings are frozen, so the gradient is taken with respect to their output, to which a hook adds the perturbation.
The paper (section 3) normalises embeddings first; these are BERT's own, and epsilon is in their units.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import BertModel

from shared.model.multitask import MultiTaskModel


def perturbation(gradient: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The perturbation epsilon * g / |g| of each row; zero for a row without a gradient.

    Args:
        gradient: Of the loss with respect to the embedded rows, [rows, length, hidden].
        epsilon: The Euclidean norm of a row's perturbation.
    """
    norms = torch.linalg.vector_norm(gradient, dim=(1, 2), keepdim=True)
    return torch.where(norms > 0, epsilon * gradient / norms, 0.0)


@contextmanager
def watched_embeddings(model: MultiTaskModel) -> Iterator[list[torch.Tensor]]:
    """Collects the word embeddings that forward passes look up, as leaves: a backward pass fills their `grad`."""
    seen: list[torch.Tensor] = []

    def watch(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    handle = _word_embeddings(model).register_forward_hook(watch)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def shifted_embeddings(model: MultiTaskModel, shift: torch.Tensor) -> Iterator[None]:
    """Adds `shift`, [rows, length, hidden], to the word embeddings that forward passes look up."""

    def add(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output + shift

    handle = _word_embeddings(model).register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def _word_embeddings(model: MultiTaskModel) -> torch.nn.Module:
    bert = model.encoder.get_base_model()
    assert isinstance(bert, BertModel)
    return bert.embeddings.word_embeddings
