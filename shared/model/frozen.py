"""States of a frozen encoder, computed once per text: where heads alone are trained, the rest never changes."""

import os
from collections.abc import Callable

import torch

MEMORY_SHARE = 4
"""The states may take one part in so many of the machine's memory; texts beyond it are encoded every time."""
Encode = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(input_ids, attention_mask, token_type_ids), each [rows, length], to states [rows, length, hidden]."""


class FrozenStates:
    """Remembers the states of every text that it has seen, in main memory, until its share of that is full.

    Nothing is ever thrown out: epochs read every text in turn, and what was used longest ago is wanted next.
    """

    def __init__(self, limit: int | None = None) -> None:
        """Remember at most `limit` bytes; a part of the machine's memory if not given."""
        self._limit = _memory() // MEMORY_SHARE if limit is None else limit
        self._bytes = 0
        self._states: dict[bytes, torch.Tensor] = {}

    def of(self, input_ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor, encode: Encode) -> torch.Tensor:
        """The states of a batch, without a gradient: [rows, length, hidden], zero where there is padding.

        Args:
            input_ids: [rows, length].
            mask: One where there is text, which is at the start of every row.
            types: Token types.
            encode: Computes those that are not known yet.
        """
        lengths = mask.sum(1).tolist()
        keys = [_key(*row) for row in zip(input_ids.cpu(), types.cpu(), lengths, strict=True)]
        unknown = [row for row, key in enumerate(keys) if key not in self._states]
        fresh: dict[int, torch.Tensor] = {}
        if unknown:
            with torch.no_grad():
                encoded = encode(input_ids[unknown], mask[unknown], types[unknown])
            fresh = {row: states[: lengths[row]] for row, states in zip(unknown, encoded, strict=True)}
        rows = [fresh[row] if row in fresh else self._states[key] for row, key in enumerate(keys)]
        for row, states in fresh.items():
            self._keep(keys[row], states)
        batch = rows[0].new_zeros((*input_ids.shape, rows[0].shape[-1]), device=input_ids.device)
        for row, states in enumerate(rows):
            batch[row, : len(states)] = states
        return batch

    def _keep(self, key: bytes, states: torch.Tensor) -> None:
        if key in self._states or self._bytes + states.nbytes > self._limit:
            return
        self._states[key] = states.cpu().clone()  # not a view of the padded batch
        self._bytes += states.nbytes


def _key(ids: torch.Tensor, types: torch.Tensor, length: int) -> bytes:
    return torch.stack([ids[:length], types[:length]]).numpy().tobytes()


def _memory() -> int:
    """Bytes of main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
