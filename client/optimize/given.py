"""The records that an optimized model is measured on, and what its heads say and lose on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from client.data.loading import read_records
from shared.errors import ConfigError, listed
from shared.inference.model import BATCH_TOKENS, ReleasedModel, cut
from shared.model.packed import PAD_MULTIPLE
from shared.tasks import Example, Record
from shared.tasks.heads import Head, Tensors


@dataclass(frozen=True)
class Labelled:
    """Records of one task with their labels, and as model input."""

    records: tuple[Record, ...]
    examples: tuple[Example, ...]


Given = Mapping[str, Labelled]
"""By task."""


@dataclass(frozen=True)
class Rows:
    """Examples of one task as an encoder and a head read them; each tensor begins with the rows."""

    examples: tuple[Example, ...]
    ids: torch.Tensor
    mask: torch.Tensor
    types: torch.Tensor
    inputs: Tensors


def read_given(model: ReleasedModel, files: Mapping[str, Path]) -> Given:
    """Read a file of labelled records for each of some tasks.

    Raises:
        ConfigError: The bundle lacks a task.
        DataError: A file cannot be read, or rows are wrong.
    """
    if unknown := sorted(set(files) - set(model.tasks)):
        raise ConfigError(f"Expected records of {listed(sorted(model.tasks))}, but of {listed(unknown)} came.")
    records = {task: read_records(path, model.tasks[task]) for task, path in files.items()}
    return {task: labelled(model, task, own) for task, own in records.items()}


def labelled(model: ReleasedModel, task: str, records: Sequence[Record]) -> Labelled:
    """Records that are known to be good."""
    return Labelled(tuple(records), tuple(model.examples(task, records)))


def halves(model: ReleasedModel, given: Given) -> tuple[Given, Given]:
    """Every other record, and the rest, so that what is chosen by the one is scored on the other.

    Raises ConfigError if a task has one record alone.
    """
    if small := sorted(task for task, own in given.items() if len(own.records) < 2):
        raise ConfigError(f"Expected two records at least of each task, but {listed(small)} has one; give more.")
    first, second = (
        {task: labelled(model, task, own.records[start::2]) for task, own in given.items()} for start in (0, 1)
    )
    return first, second


def says_logits(head: Head) -> bool:
    """Whether what a head infers are its logits; others choose words by themselves."""
    return type(head).infer is Head.infer


def batches_of(model: ReleasedModel, examples: Sequence[Example], tokens: int = BATCH_TOKENS) -> list[Rows]:
    """Examples of one task, the shortest first, in batches of at most so many padded sub-tokens."""
    ordered = sorted(examples, key=len)
    return [_rows(model, [ordered[n] for n in places]) for places in cut([len(e) for e in ordered], tokens)]


def _rows(model: ReleasedModel, examples: Sequence[Example]) -> Rows:
    length = -(-max(map(len, examples)) // PAD_MULTIPLE) * PAD_MULTIPLE
    ids, mask, types = (torch.zeros((len(examples), length), dtype=torch.long) for _ in range(3))
    ids += int(model.tokenizer.pad_token_id)
    for row, example in enumerate(examples):
        end = len(example)
        ids[row, :end], types[row, :end] = torch.tensor(example.input_ids), torch.tensor(example.token_type_ids)
        mask[row, :end] = 1
    inputs = model.heads[examples[0].task].inputs(examples, length)
    return Rows(tuple(examples), ids, mask, types, inputs)


@torch.inference_mode()
def loss_of(model: ReleasedModel, batches: Mapping[str, Sequence[Rows]]) -> float:
    """The mean of the tasks' mean losses."""
    means = []
    for task, batch in batches.items():
        head, losses = model.heads[task], []
        for rows in batch:
            logits = head(model.encode(rows.ids, rows.mask, rows.types), rows.mask, rows.inputs)
            targets = head.collate([example.target for example in rows.examples], rows.ids.shape[1])
            losses.append(head.loss(logits.float(), targets))
        means.append(float(torch.cat(losses).mean()))
    return float(np.mean(means))
