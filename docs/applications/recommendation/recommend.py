"""Ranks documents for a reader by what was read before, by the sentence states of the bundle's encoder.

    python recommend.py BUNDLE documents.jsonl --read read.jsonl

A text's state is the mean of its sub-tokens' states in the last layer, less the mean of all texts: what all have in
common says nothing (Mu and Viswanath 2018, arXiv 1702.01417). A document is scored by its largest cosine similarity
with a text that was read, so that a reader may have several interests.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from shared.inference.model import ReleasedModel
from shared.inference.opening import open_model


@torch.inference_mode()
def states(model: ReleasedModel, texts: Sequence[str], rows: int = 32) -> np.ndarray:
    """Mean states [texts, hidden]."""
    found = []
    for start in range(0, len(texts), rows):
        part = list(texts[start : start + rows])
        ids = model.tokenizer(part, truncation=True, max_length=model.federation.backbone.max_length)["input_ids"]
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row), dtype=torch.long) for row in ids], True)
        output = model.encode(padded, mask, torch.zeros_like(padded))
        mean = (output * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        found.append(mean.numpy())
    return np.concatenate(found)


def rank(model: ReleasedModel, documents: Sequence[str], read: Sequence[str]) -> list[tuple[float, str, str]]:
    """Score, document, and the text that it is most like; the best first, without what was read."""
    new = [document for document in documents if document not in set(read)]
    found = states(model, [*new, *read])
    found -= found.mean(0)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    similar = found[: len(new)] @ found[len(new) :].T
    rows = [(float(row.max()), new[place], read[int(row.argmax())]) for place, row in enumerate(similar)]
    return sorted(rows, reverse=True)


def main() -> None:
    """Print one JSON object a document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("documents", type=Path)
    parser.add_argument("--read", type=Path, required=True, help="Texts that the reader has read.")
    given = parser.parse_args()
    documents, read = (
        [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]
        for file in (given.documents, given.read)
    )
    for score, document, because in rank(open_model(given.bundle), documents, read):
        print(json.dumps({"score": round(score, 3), "text": document, "like": because}, ensure_ascii=False))


if __name__ == "__main__":
    main()
