"""Extractive question answering in the manner of SQuAD 2.0: a span of the context, or no answer.

Long contexts are read in overlapping windows. The head gives each sub-token a start and an end score; position 0
([CLS]) stands for "no answer". Scores follow the rules of the official SQuAD 2.0 evaluation.
"""

import collections
import re
import string
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, final

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from shared.tasks.base import Example, Record, Spec, Target, Tensors, require_text, shown

BEST = 20
"""How many of the highest starts and ends are combined to find the best span."""


class QuestionAnsweringSpec(Spec):
    """`[tasks.NAME]` of a question answering."""

    type: Literal["question-answering"]
    doc_stride: Annotated[int, Field(ge=1)] = 64
    """Sub-tokens that neighbouring windows of a long context share."""
    max_answer_tokens: Annotated[int, Field(ge=1)] = 30
    null_threshold: float = 0.0
    """Answer nothing where the no-answer score exceeds the best span's by more than this."""


class SpanHead(nn.Module):
    """Dropout and a linear layer to a start and an end score per sub-token.

    Padding scores minus infinity: the loss is a softmax over positions, and must not depend on how long the batch is.
    """

    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden_size, 2)

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits [rows, length, 2]."""
        scores: torch.Tensor = self.linear(self.dropout(states))
        return scores.masked_fill(mask.unsqueeze(-1) == 0, -torch.inf)


@final
class QuestionAnswering:
    """A question, a context, and the answer's place in it."""

    source = "Rajpurkar et al. 2018; Devlin et al. 2019, section 4.3"
    record_schema = '{"context", "question", "answers": [{"text", "start"}]}'

    def __init__(self, name: str, spec: QuestionAnsweringSpec) -> None:
        self.name = name
        self.metric = "f1"
        self.spec = spec

    def check(self, record: Record) -> None:
        """Raise ValueError unless there is a question, a context, and each answer stands where it says."""
        context = require_text(record, "context")
        require_text(record, "question")
        answers = record.get("answers")
        if not isinstance(answers, list) or not all(isinstance(answer, Mapping) for answer in answers):
            raise ValueError(f"expected a list of answers in 'answers', but {shown(answers)} came")
        for answer in answers:
            text, start = require_text(answer, "text"), answer.get("start")
            if not isinstance(start, int) or isinstance(start, bool) or start < 0:
                raise ValueError(f"expected a character position in 'start', but {shown(start)} came")
            if (there := context[start : start + len(text)]) != text:
                raise ValueError(f"answer {shown(text)} does not stand at {start}, where {shown(there)} stands")

    def encode(self, records: Sequence[Record], tokenizer: PreTrainedTokenizerFast, max_length: int) -> list[Example]:
        """One example per window of a record's context; a question may fill at most half of the input."""
        longest = max_length // 2
        questions = tokenizer(
            [r["question"] for r in records], add_special_tokens=False, truncation=True, max_length=longest
        )
        kept = [
            tokenizer.decode(ids) if len(ids) == longest else record["question"]
            for ids, record in zip(questions["input_ids"], records, strict=True)
        ]
        encoded = tokenizer(
            kept,
            [record["context"] for record in records],
            truncation="only_second",
            max_length=max_length,
            stride=min(self.spec.doc_stride, max_length // 4),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=True,
        )
        examples = []
        for window, index in enumerate(encoded["overflow_to_sample_mapping"]):
            places = [
                place if sequence == 1 else None
                for place, sequence in zip(encoded["offset_mapping"][window], encoded.sequence_ids(window), strict=True)
            ]
            examples.append(
                Example(
                    self.name,
                    index,
                    encoded["input_ids"][window],
                    encoded["token_type_ids"][window],
                    _target(records[index], places),
                    {"places": places, "context": records[index]["context"]},
                )
            )
        return examples

    def from_text(self, text: str, question: str | None = None) -> Record:
        """A record of the context and the question."""
        if not question:
            raise ValueError("expected a question beside the text, but none came")
        return {"context": text, "question": question}

    def head(self, hidden_size: int, dropout: float) -> nn.Module:
        """Dropout and a linear layer to a start and an end score per sub-token."""
        return SpanHead(hidden_size, dropout)

    def collate(self, targets: Sequence[Target], length: int) -> Tensors:
        """`start` and `end`: [rows], positions in the window, 0 where it holds no answer."""
        return {key: torch.tensor([target[key] for target in targets]) for key in ("start", "end")}

    def loss(self, logits: torch.Tensor, targets: Tensors) -> torch.Tensor:
        """Mean of the start's and the end's cross-entropy, of each row."""
        losses = [
            functional.cross_entropy(logits[..., i], targets[key], reduction="none")
            for i, key in enumerate(("start", "end"))
        ]
        return (losses[0] + losses[1]) / 2

    def predict(self, examples: Sequence[Example], logits: Sequence[np.ndarray]) -> dict[int, Any]:
        """The answer's text per record, over all its windows; "" where no answer is likelier."""
        null: dict[int, float] = {}
        best: dict[int, tuple[float, str]] = {}
        for example, scores in zip(examples, logits, strict=True):
            record = example.record
            null[record] = min(null.get(record, np.inf), float(scores[0].sum()))
            score, text = self._best_span(example, scores)
            if score > best.get(record, (-np.inf, ""))[0]:
                best[record] = (score, text)
        answers = {}
        for record, lowest in null.items():
            score, text = best.get(record, (-np.inf, ""))
            answers[record] = "" if lowest - score > self.spec.null_threshold else text
        return answers

    def score(self, records: Sequence[Record], predictions: Sequence[Any]) -> dict[str, float]:
        """Exact match and F1, and F1 over the records with and without an answer where there are such."""
        exact, f1 = [], []
        for record, prediction in zip(records, predictions, strict=True):
            golds = [answer["text"] for answer in record["answers"] if _normalise(answer["text"])] or [""]
            exact.append(max(float(_normalise(gold) == _normalise(prediction)) for gold in golds))
            f1.append(max(_f1(gold, prediction) for gold in golds))
        scores = {"f1": float(np.mean(f1)), "exact_match": float(np.mean(exact))}
        for name, kept in (("has_answer_f1", True), ("no_answer_f1", False)):
            part = [value for value, record in zip(f1, records, strict=True) if bool(record["answers"]) == kept]
            if part:
                scores[name] = float(np.mean(part))
        return scores

    def _best_span(self, example: Example, scores: np.ndarray) -> tuple[float, str]:
        places = example.decoding["places"]
        inside = [i for i, place in enumerate(places) if place is not None]
        starts = sorted(inside, key=lambda i: -scores[i, 0])[:BEST]
        ends = sorted(inside, key=lambda i: -scores[i, 1])[:BEST]
        spans = [(s, e) for s in starts for e in ends if s <= e < s + self.spec.max_answer_tokens]
        if not spans:
            return -np.inf, ""
        start, end = max(spans, key=lambda span: scores[span[0], 0] + scores[span[1], 1])
        return float(scores[start, 0] + scores[end, 1]), example.decoding["context"][places[start][0] : places[end][1]]


def _target(record: Record, places: Sequence[tuple[int, int] | None]) -> Target:
    """The first answer's sub-tokens in this window; (0, 0) if it is not wholly inside."""
    if "answers" not in record:
        return {}
    if not record["answers"]:
        return {"start": 0, "end": 0}
    first = record["answers"][0]
    begin, stop = first["start"], first["start"] + len(first["text"])
    start = next((i for i, place in enumerate(places) if place and place[0] <= begin < place[1]), 0)
    end = next((i for i, place in enumerate(places) if place and place[0] < stop <= place[1]), 0)
    return {"start": start, "end": end} if start and end else {"start": 0, "end": 0}


def _normalise(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def _f1(gold: str, prediction: str) -> float:
    """Word overlap; where either is empty, 1 if both are."""
    wanted, found = _normalise(gold).split(), _normalise(prediction).split()
    if not wanted or not found:
        return float(wanted == found)
    common = sum((collections.Counter(wanted) & collections.Counter(found)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(found), common / len(wanted)
    return 2 * precision * recall / (precision + recall)
