"""States of frozen layers, computed once per text: those below what is trained never change."""

import os
from collections.abc import Callable, Collection, Iterable

import torch

MEMORY_SHARE = 4
"""The states may take one part in so many of the machine's memory; texts beyond it are encoded every time."""
Encode = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Iterable[torch.Tensor]]
"""(input_ids, attention_mask, token_type_ids), each [rows, length], to each row's states, padding last or left out."""


class FrozenStates:
    """Remembers the states of every text that it has seen, in main memory, until its share of that is full.

    Nothing is ever thrown out: epochs read every text in turn, and what was used longest ago is wanted next.
    """

    def __init__(self, limit: int | None = None) -> None:
        """Remember at most `limit` bytes; a part of the machine's memory if not given."""
        self._limit = memory_share() if limit is None else limit
        self._bytes = 0
        self._states: dict[tuple[bytes, torch.dtype], torch.Tensor] = {}

    def of(
        self,
        input_ids: torch.Tensor,
        mask: torch.Tensor,
        types: torch.Tensor,
        encode: Encode,
        *,
        varied: Collection[int] = (),
    ) -> torch.Tensor:
        """As `rows`, padded with zeros: [rows, length, hidden]."""
        rows = self.rows(input_ids, mask, types, encode, varied=varied)
        batch = rows[0].new_zeros((*input_ids.shape, rows[0].shape[-1]), device=input_ids.device)
        for row, states in enumerate(rows):
            batch[row, : len(states)] = states
        return batch

    def rows(
        self,
        input_ids: torch.Tensor,
        mask: torch.Tensor,
        types: torch.Tensor,
        encode: Encode,
        *,
        dtype: torch.dtype = torch.float32,
        varied: Collection[int] = (),
    ) -> list[torch.Tensor]:
        """The states of each row, without a gradient and without padding: [sub-tokens, hidden].

        Args:
            input_ids: [rows, length].
            mask: One where there is text, which is at the start of every row.
            types: Token types.
            encode: Computes those that are not known yet.
            dtype: Of the products: states of the same text in another are others.
            varied: Rows that are not remembered, since their text comes once.
        """
        lengths = mask.sum(1).tolist()
        texts = zip(input_ids.cpu(), types.cpu(), lengths, strict=True)
        keys = [(_key(*text), dtype) for text in texts]
        unknown = [row for row, key in enumerate(keys) if key not in self._states]
        fresh: dict[int, torch.Tensor] = {}
        if unknown:
            with torch.no_grad():
                encoded = encode(input_ids[unknown], mask[unknown], types[unknown])
            fresh = {row: states[: lengths[row]] for row, states in zip(unknown, encoded, strict=True)}
        rows = [fresh[row] if row in fresh else self._states[key] for row, key in enumerate(keys)]
        for row, states in fresh.items():
            if row not in varied:
                self._keep(keys[row], states)
        return rows

    def _keep(self, key: tuple[bytes, torch.dtype], states: torch.Tensor) -> None:
        if key in self._states or self._bytes + states.nbytes > self._limit:
            return
        self._states[key] = states.cpu().clone()  # not a view of the padded batch
        self._bytes += states.nbytes


def _key(ids: torch.Tensor, types: torch.Tensor, length: int) -> bytes:
    return torch.stack([ids[:length], types[:length]]).numpy().tobytes()


def memory_share() -> int:
    """Bytes that the states may take on this machine."""
    return _memory() // MEMORY_SHARE


def _memory() -> int:
    """Bytes of main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
