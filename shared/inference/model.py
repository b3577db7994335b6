"""A released model: the encoder, once for each text whatever the tasks, and the heads that read its states."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from shared.federation import Federation
from shared.model.packed import PAD_MULTIPLE
from shared.tasks import Example, Record, Task
from shared.tasks.heads import Head

BATCH_TOKENS = 2048
"""Most padded sub-tokens that pass at once, unless a single text has more."""
Encode = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""States [rows, length, hidden] of input ids, mask and token types, [rows, length] each; the mask is one where there is
text, at the start of every row."""


@dataclass(frozen=True)
class ReleasedModel:
    """A bundle, ready for texts. Its tasks are those whose heads it has."""

    federation: Federation
    tokenizer: Any
    tasks: Mapping[str, Task]
    heads: Mapping[str, Head]
    encode: Encode
    device: torch.device

    def examples(self, task: str, records: Sequence[Record]) -> list[Example]:
        """Records that `Task.check_input` accepts as model input."""
        return self.tasks[task].encode(records, self.tokenizer, self.federation.backbone.max_length)

    @torch.inference_mode()
    def infer(self, examples: Sequence[Example], batch_tokens: int = BATCH_TOKENS) -> list[np.ndarray]:
        """What each example's head infers, cut to the example's length where it is per sub-token.

        Args:
            examples: Of any tasks. Those that read the same text share one pass of it.
            batch_tokens: Most padded sub-tokens of a pass.
        """
        alike: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
        for number, example in enumerate(examples):
            alike.setdefault((tuple(example.input_ids), tuple(example.token_type_ids)), []).append(number)
        found: dict[int, np.ndarray] = {}
        texts = sorted(alike.items(), key=lambda text: len(text[0][0]))
        for batch in cut([len(ids) for (ids, _), _ in texts], batch_tokens):
            found |= self._infer([texts[place] for place in batch], examples)
        return [found[number] for number in range(len(examples))]

    def _infer(self, texts: Sequence[Any], examples: Sequence[Example]) -> dict[int, np.ndarray]:
        """One pass: of texts, and the numbers of the examples that read each."""
        length = _padded(max(len(ids) for (ids, _), _ in texts))
        ids, mask, types = (torch.zeros((len(texts), length), dtype=torch.long) for _ in range(3))
        ids += int(self.tokenizer.pad_token_id)
        readers: dict[str, list[tuple[int, int]]] = {}
        for row, ((own, kinds), numbers) in enumerate(texts):
            ids[row, : len(own)], types[row, : len(own)], mask[row, : len(own)] = *map(torch.tensor, (own, kinds)), 1
            for number in numbers:
                readers.setdefault(examples[number].task, []).append((row, number))
        mask = mask.to(self.device)
        states = self.encode(ids.to(self.device), mask, types.to(self.device))
        found: dict[int, np.ndarray] = {}
        for task, pairs in readers.items():
            rows, head = torch.tensor([row for row, _ in pairs], device=self.device), self.heads[task]
            inputs = head.inputs([examples[number] for _, number in pairs], length)
            moved = {key: tensor.to(self.device) for key, tensor in inputs.items()}
            output = head.infer(states[rows], mask[rows], moved).float().cpu().numpy()
            for (_, number), own in zip(pairs, output, strict=True):
                found[number] = own[: len(examples[number])] if output.ndim == 3 else own
        return found


def cut(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Places of ascending lengths in batches of at most `batch_tokens` padded sub-tokens; a longer one is alone."""
    batches: list[list[int]] = []
    for place, length in enumerate(lengths):
        if batches and _padded(length) * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def _padded(length: int) -> int:
    return -(-length // PAD_MULTIPLE) * PAD_MULTIPLE
