"""Token classification (named entities): BIO tags on words, carried by each word's first sub-token.

A document longer than the model's input is cut into windows between words, so that no word is lost. Scores are
seqeval's in strict mode (IOB2), which equal conlleval's on legal sequences; predictions are made legal first.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, final

import numpy as np
import torch
from pydantic import AfterValidator, Field
from seqeval.metrics.v1 import precision_recall_fscore_support
from seqeval.scheme import IOB2
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from shared.tasks.base import Card, Example, Head, LabelSmoothing, Record, Spec, Target, Task, Tensors, shown, unique

IGNORE = -100
"""The target of a sub-token that carries no tag."""


class TokenClassificationSpec(Spec):
    """`[tasks.NAME]` of a token classification."""

    type: Literal["token-classification"]
    types: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(unique)]
    """The entity types; tags are `B-TYPE`, `I-TYPE` and `O`."""
    label_smoothing: LabelSmoothing = 0.0


class TokenHead(Head):
    """Dropout and one linear layer on every sub-token."""

    def __init__(self, hidden_size: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden_size, outputs)

    def forward(self, states: torch.Tensor, mask: torch.Tensor, inputs: Tensors) -> torch.Tensor:
        """Logits [rows, length, outputs]."""
        logits: torch.Tensor = self.linear(self.dropout(states))
        return logits


@final
class TokenClassification(Task):
    """Words and their BIO tags."""

    card = Card(
        summary="which words name something, and what kind of thing",
        record='{"tokens": [...], "tags": [...]}',
        head="dropout and linear on every sub-token; a word's first one carries its tag",
        loss="cross-entropy, mean over the words of a row",
        metrics="f1, precision, recall of whole entities, strict",
        source="Devlin et al. 2019, section 5.3; Tjong Kim Sang and De Meulder 2003",
    )
    free_words = ("tokens",)

    def __init__(self, name: str, spec: TokenClassificationSpec) -> None:
        self.name = name
        self.metric = "f1"
        self.labels = spec.types
        self.label_smoothing = spec.label_smoothing
        self.tags = ("O", *(f"{prefix}-{kind}" for kind in spec.types for prefix in "BI"))

    def check(self, record: Record) -> None:
        """Raise ValueError unless tokens and tags agree and the tags are legal BIO of this task."""
        tokens, tags = record.get("tokens"), record.get("tags")
        if not isinstance(tokens, list) or not tokens:
            raise ValueError(f"expected a list of words in 'tokens', but {shown(tokens)} came")
        for position, token in enumerate(tokens):
            if not isinstance(token, str) or not token:
                raise ValueError(f"expected a word at token {position}, but {shown(token)} came")
        if not isinstance(tags, list) or len(tags) != len(tokens):
            count = len(tags) if isinstance(tags, list) else shown(tags)
            raise ValueError(f"expected {len(tokens)} tags for {len(tokens)} tokens, but {count} came")
        for position, tag in enumerate(tags):
            if tag not in self.tags:
                raise ValueError(
                    f"tag {shown(tag)} at token {position} is not among the federation's {list(self.tags)}"
                )
            if tag[0] == "I" and (position == 0 or tags[position - 1][1:] != tag[1:]):
                raise ValueError(f"tag {tag} at token {position} does not follow B{tag[1:]} or {tag}")

    def texts_of(self, record: Record) -> list[str]:
        """The words in a line."""
        return [" ".join(record["tokens"])]

    def labels_of(self, record: Record) -> list[str]:
        """The type of each entity, in whichever of the usual schemes the tags are (BIO, IOB, BIOES, BILOU)."""
        tags = record.get("tags", ())
        begins = [
            tag != "O" and (tag[:1] not in ("I", "E", "L") or last[1:] != tag[1:])
            for last, tag in zip(["O", *tags], tags, strict=False)
        ]
        return [tag.partition("-")[2] or tag for tag, begin in zip(tags, begins, strict=True) if begin]

    def encode(self, records: Sequence[Record], tokenizer: PreTrainedTokenizerFast, max_length: int) -> list[Example]:
        """One example per record, or several windows of whole words."""
        if not records:
            return []
        encoded = tokenizer(
            [list(record["tokens"]) for record in records],
            is_split_into_words=True,
            add_special_tokens=False,
            verbose=False,
        )
        cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        examples = []
        for index, record in enumerate(records):
            ids, words = encoded["input_ids"][index], _first_pieces(encoded.word_ids(index))
            for start, end in _windows(words, max_length - 2):
                carried = [None, *words[start:end], None]
                examples.append(
                    Example(
                        self.name,
                        index,
                        [cls, *ids[start:end], sep],
                        [0] * len(carried),
                        self._target(record, carried),
                        {"words": carried, "count": len(record["tokens"])},
                    )
                )
        return examples

    def from_text(self, text: str, second: str | None = None) -> Record:
        """A record of the text's words, cut at white space."""
        return {"tokens": text.split()}

    def head(self, embeddings: torch.Tensor, dropout: float) -> Head:
        """Dropout and a linear layer on every sub-token."""
        return TokenHead(embeddings.shape[1], len(self.tags), dropout)

    def collate(self, targets: Sequence[Target], length: int) -> Tensors:
        """`tags`: [rows, length], IGNORE where a sub-token carries none."""
        tags = torch.full((len(targets), length), IGNORE, dtype=torch.long)
        for row, target in enumerate(targets):
            tags[row, : len(target["tags"])] = torch.tensor(target["tags"])
        return {"tags": tags}

    def loss(self, logits: torch.Tensor, targets: Tensors) -> torch.Tensor:
        """Mean cross-entropy over the words of each row; zero for a row without words."""
        tags = targets["tags"]
        losses = functional.cross_entropy(
            logits.transpose(1, 2), tags, reduction="none", ignore_index=IGNORE, label_smoothing=self.label_smoothing
        )
        return losses.sum(1) / (tags != IGNORE).sum(1).clamp(min=1)

    def predict(self, examples: Sequence[Example], logits: Sequence[np.ndarray]) -> dict[int, Any]:
        """Legal tags per record: an `I-` that continues nothing becomes `B-`; a word without sub-tokens is `O`."""
        found: dict[int, list[str]] = {}
        for example, rows in zip(examples, logits, strict=True):
            tags = found.setdefault(example.record, ["O"] * example.decoding["count"])
            for word, choice in zip(example.decoding["words"], rows.argmax(-1), strict=True):
                if word is not None:
                    tags[word] = self.tags[choice]
        return {record: _legal(tags) for record, tags in found.items()}

    def score(self, records: Sequence[Record], predictions: Sequence[Any]) -> dict[str, float]:
        """Entity-level micro F1, precision and recall, strict IOB2."""
        gold = [list(record["tags"]) for record in records]
        precision, recall, f1, _ = precision_recall_fscore_support(
            gold, list(predictions), average="micro", scheme=IOB2, zero_division=0
        )
        return {"f1": float(f1), "precision": float(precision), "recall": float(recall)}

    def _target(self, record: Record, words: Sequence[int | None]) -> Target:
        if "tags" not in record:
            return {}
        return {"tags": [IGNORE if word is None else self.tags.index(record["tags"][word]) for word in words]}


def _first_pieces(word_ids: Sequence[int | None]) -> list[int | None]:
    """The word that each sub-token begins; None where it continues one."""
    return [word if i == 0 or word != word_ids[i - 1] else None for i, word in enumerate(word_ids)]


def _windows(words: Sequence[int | None], size: int) -> list[tuple[int, int]]:
    """Cut sub-tokens into runs of at most `size` that end between words.

    A word longer than `size` is cut, and runs that begin no word are left out: they carry no tag.
    """
    windows, start = [], 0
    while len(words) - start > size:
        end = next((i for i in range(start + size, start, -1) if words[i] is not None), start + size)
        windows.append((start, end))
        start = end
    windows.append((start, len(words)))
    return [(a, b) for a, b in windows if any(word is not None for word in words[a:b])] or windows[:1]


def _legal(tags: Sequence[str]) -> list[str]:
    legal: list[str] = []
    for tag in tags:
        continues = bool(legal) and legal[-1][1:] == tag[1:]
        legal.append("B" + tag[1:] if tag[0] == "I" and not continues else tag)
    return legal
