"""Heads over fewer layers learn from what they said over all of them, on texts that need no label.

The logits are brought together by their mean squared distance (Ba and Caruana 2014, arXiv 1312.6184). A tenth of the
texts is kept apart: a head that does not come closer on it stays as it was.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from client.answers.answering import question_of
from client.answers.streams import read, refusal
from client.optimize.given import Rows, batches_of, says_logits
from shared.errors import DataError
from shared.inference.model import ReleasedModel
from shared.tasks.heads import Head

STEPS, RATE, APART = 1000, 1e-3, 10
BATCH_TOKENS = 512
"""Padded sub-tokens of a step."""
MOST = 2000
"""Texts that are read, so that their states fit in memory."""
Pair = tuple[torch.Tensor, Rows, torch.Tensor]
"""States [rows, length, hidden] of the smaller model, what they are of, and the logits over the whole one."""


def read_texts(path: Path) -> list[dict[str, Any]]:
    """Records without need of labels, at most `MOST`; DataError if rows are none."""
    texts, bad, count = list[dict[str, Any]](), list[tuple[int | str, str]](), 0
    for part in read(str(path), None, ()):
        for place, row in part:
            count += 1
            if isinstance(row, str):
                bad.append((place, row))
            else:
                texts.append(dict(row))
        if len(texts) >= MOST:
            break
    if bad:
        raise refusal(bad, count, str(path))
    if not texts:
        raise DataError(f"Expected records to distill from in {path}, but the file is empty; put texts there.")
    return texts[:MOST]


def distill(teacher: ReleasedModel, student: ReleasedModel, texts: Sequence[Any]) -> dict[str, Head]:
    """The heads that came closer; those that the texts are no records for, and that choose words, are left alone.

    Args:
        teacher: The whole model.
        student: The one with fewer layers, whose heads are the teacher's and stay as they are.
        texts: Texts and records, of any task.
    """
    question, found = question_of(teacher, list(teacher.tasks), texts, strict=False), dict[str, Head]()
    for asked in question.asked:
        head = teacher.heads[asked.task]
        if len(asked.examples) >= 2 and says_logits(head):
            pairs = _pairs(teacher, student, head, asked.examples)
            if learnt := closer(head, pairs[1::APART] if len(pairs) > 1 else pairs, pairs):
                found[asked.task] = learnt
    return found


def closer(head: Head, apart: Sequence[Pair], pairs: Sequence[Pair]) -> Head | None:
    """A copy that has learnt from the pairs but those `apart`; None unless it is closer on these."""
    kept = {id(pair) for pair in apart}
    learning = [pair for pair in pairs if id(pair) not in kept] or list(pairs)
    learnt = copy.deepcopy(head).requires_grad_(True).eval()
    optimizer = torch.optim.AdamW(learnt.parameters(), lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    chance = torch.Generator().manual_seed(0)
    for number in torch.randint(len(learning), (STEPS,), generator=chance).tolist():
        optimizer.zero_grad()
        _distance(learnt, *learning[number]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        before, after = (sum(float(_distance(one, *pair)) for pair in apart) for one in (head, learnt))
    return learnt.requires_grad_(False) if after < before else None


def _distance(head: Head, states: torch.Tensor, rows: Rows, wanted: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = head(states, rows.mask, rows.inputs)
    told = torch.isfinite(wanted)
    if wanted.ndim == 3:
        told = told & rows.mask[:, :, None].bool()
    return (logits - wanted)[told].square().mean()


@torch.no_grad()
def _pairs(teacher: ReleasedModel, student: ReleasedModel, head: Head, examples: Sequence[Any]) -> list[Pair]:
    pairs = []
    for rows in batches_of(student, examples, BATCH_TOKENS):
        texts = rows.ids, rows.mask, rows.types
        pairs.append((student.encode(*texts), rows, head(teacher.encode(*texts), rows.mask, rows.inputs)))
    return pairs
