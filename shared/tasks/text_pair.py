"""Two texts read together: what label fits the pair, or how much alike they are.

Input: [CLS] text_a [SEP] text_b [SEP], so that the encoder compares the two (a cross-encoder); where they are too long,
the longer one is cut until both fit. Head: the mean over both texts or the state of [CLS]; dropout, a linear layer.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, final

import numpy as np
from pydantic import Field, model_validator

from shared.tasks.base import (
    Card,
    Example,
    LabelSmoothing,
    Pooling,
    Record,
    Spec,
    Target,
    Task,
    require_text,
    shown,
)
from shared.tasks.labels import (
    ClassWeights,
    Labels,
    check_weights,
    label_answer,
    label_scores,
    label_target,
    likeliest,
    renamed,
    require_label,
)
from shared.tasks.layers import Layers, Linear
from shared.tasks.tags import Scheme
from shared.tasks.tally import LabelTally

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Bound = Annotated[float, Field(allow_inf_nan=False)]


class TextPairClassificationSpec(Spec):
    """`[tasks.NAME]` of a classification of text pairs."""

    type: Literal["text-pair-classification"]
    labels: Labels
    """All labels, in the order of the head's outputs."""
    class_weights: ClassWeights | None = None
    """Each row's loss is multiplied by its label's weight, and divided by nothing."""
    pooling: Pooling = "mean"
    """What the head reads: the mean of the states, or that of [CLS]."""
    label_smoothing: LabelSmoothing = 0.0
    """Share of the target that is spread over all labels in training."""

    @model_validator(mode="after")
    def _one_weight_per_label(self) -> Self:
        check_weights(self.labels, self.class_weights)
        return self


class SentenceSimilaritySpec(Spec):
    """`[tasks.NAME]` of a sentence similarity."""

    type: Literal["sentence-similarity"]
    low: Bound = 0.0
    """The score of two texts that have nothing in common."""
    high: Bound = 1.0
    """The score of two texts that say the same."""
    pooling: Pooling = "mean"
    """What the head reads: the mean of the states, or that of [CLS]."""

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, not {self.low:g} with high {self.high:g}")
        return self


@final
class TextPairClassification(Task):
    """Two texts and the label of the pair."""

    card = Card(
        summary="how one text stands to another: whether it follows from it, contradicts it, answers it",
        record='{"text_a", "text_b", "label"}',
        head="mean over both texts' sub-tokens, or [CLS]; dropout, linear",
        loss="cross-entropy; class weights",
        metrics="macro_f1, accuracy, mcc",
        source="Devlin et al. 2019, section 4.1; pooling as in Reimers and Gurevych 2019",
    )
    free_texts = ("text_a", "text_b")
    written = ("text_a", "text_b")
    targets = ("label",)

    def __init__(self, name: str, spec: TextPairClassificationSpec) -> None:
        self.name = name
        self.labels = spec.labels
        self.label_smoothing = spec.label_smoothing
        self.class_weights = spec.class_weights
        self.pooling = spec.pooling
        self.metric = "macro_f1"
        self.tally = LabelTally(spec.labels, spec.labels)

    def check_input(self, record: Record) -> None:
        """Raise ValueError unless the record has two texts."""
        _require_texts(record)

    def check_target(self, record: Record) -> None:
        """Raise ValueError unless the record has a label of this task."""
        require_label(record, self.labels)

    def texts_of(self, record: Record) -> list[str]:
        """Both texts."""
        return [record["text_a"], record["text_b"]]

    def labels_of(self, record: Record) -> list[str]:
        """The label."""
        return [record["label"]] if "label" in record else []

    def encode(self, records: Sequence[Record], tokenizer: "PreTrainedTokenizerFast", max_length: int) -> list[Example]:
        """One example per record, both texts cut to fit `max_length`."""
        targets = [label_target(record, self.labels) for record in records]
        return _encode(self.name, records, targets, tokenizer, max_length)

    def layers(self, hidden: int, vocabulary: int) -> Layers:
        """One."""
        return {"linear": Linear(hidden, len(self.labels))}

    def from_text(self, text: str, second: str | None = None) -> Record:
        """A record of both texts."""
        return _pair(text, second)

    def outputs(self) -> Sequence[str | None]:
        """The labels."""
        return self.labels

    def relabel(self, record: Record, rename: Mapping[str, str], scheme: Scheme) -> Record:
        """The record with its label renamed."""
        return renamed(record, rename, self.labels)

    def predict(self, examples: Sequence[Example], logits: Sequence[np.ndarray]) -> dict[int, Any]:
        """The likeliest label."""
        return {e.record: likeliest(e, row, self.labels) for e, row in zip(examples, logits, strict=True)}

    def answer(
        self, records: Sequence[Record], examples: Sequence[Example], logits: Sequence[np.ndarray]
    ) -> dict[int, Any]:
        """`label` and `score`, its probability."""
        return {e.record: label_answer(row, self.labels) for e, row in zip(examples, logits, strict=True)}

    def score(self, records: Sequence[Record], predictions: Sequence[Any]) -> dict[str, float]:
        """Macro-F1 over the labels that occur, accuracy, MCC (in [-1, 1])."""
        return label_scores([record["label"] for record in records], predictions)


@final
class SentenceSimilarity(Task):
    """Two texts and how much alike they are, from `low` to `high`."""

    card = Card(
        summary="how much alike two texts are, as a number",
        record='{"text_a", "text_b", "score"}',
        head="mean over both texts' sub-tokens, or [CLS]; dropout, linear to one number",
        loss="squared error of the score scaled to [0, 1]",
        metrics="pearson, spearman",
        source="Cer et al. 2017 (task and metrics); Devlin et al. 2019, section 4.1",
    )
    written = ("text_a", "text_b")
    targets = ("score",)

    def __init__(self, name: str, spec: SentenceSimilaritySpec) -> None:
        self.name = name
        self.low, self.high = spec.low, spec.high
        self.pooling = spec.pooling
        self.metric = "pearson"

    def check_input(self, record: Record) -> None:
        """Raise ValueError unless the record has two texts."""
        _require_texts(record)

    def check_target(self, record: Record) -> None:
        """Raise ValueError unless the record has a score within the bounds."""
        self._score_of(record)

    def texts_of(self, record: Record) -> list[str]:
        """Both texts."""
        return [record["text_a"], record["text_b"]]

    def encode(self, records: Sequence[Record], tokenizer: "PreTrainedTokenizerFast", max_length: int) -> list[Example]:
        """One example per record, both texts cut to fit `max_length`; the target is scaled to [0, 1]."""
        targets = [{"score": self._scaled(record)} if "score" in record else {} for record in records]
        return _encode(self.name, records, targets, tokenizer, max_length)

    def layers(self, hidden: int, vocabulary: int) -> Layers:
        """One."""
        return {"linear": Linear(hidden, 1)}

    def from_text(self, text: str, second: str | None = None) -> Record:
        """A record of both texts."""
        return _pair(text, second)

    def predict(self, examples: Sequence[Example], logits: Sequence[np.ndarray]) -> dict[int, Any]:
        """The score between `low` and `high`."""
        return {
            example.record: self.low + min(1.0, max(0.0, float(row[0]))) * (self.high - self.low)
            for example, row in zip(examples, logits, strict=True)
        }

    def answer(
        self, records: Sequence[Record], examples: Sequence[Example], logits: Sequence[np.ndarray]
    ) -> dict[int, Any]:
        """`score`: how much alike both are, between `low` and `high`."""
        return {record: {"score": score} for record, score in self.predict(examples, logits).items()}

    def score(self, records: Sequence[Record], predictions: Sequence[Any]) -> dict[str, float]:
        """Pearson's and Spearman's correlation by scipy, in [-1, 1]; 0 where one side is constant."""
        from scipy.stats import pearsonr, spearmanr

        gold = [self._score_of(record) for record in records]
        return {
            "pearson": _correlation(pearsonr, gold, predictions),
            "spearman": _correlation(spearmanr, gold, predictions),
        }

    def _scaled(self, record: Record) -> float:
        return (self._score_of(record) - self.low) / (self.high - self.low)

    def _score_of(self, record: Record) -> float:
        """The record's score, which CSV gives as text, and Parquet maybe as a decimal."""
        value = record.get("score")
        try:
            number = float(value) if isinstance(value, str | Decimal) else value
        except ValueError:
            number = None
        if not isinstance(number, int | float) or isinstance(number, bool) or not self.low <= number <= self.high:
            raise ValueError(
                f"expected a number from {self.low:g} to {self.high:g} in 'score', but {shown(value)} came"
            )
        return float(number)


def _require_texts(record: Record) -> None:
    require_text(record, "text_a")
    require_text(record, "text_b")


def _pair(text: str, second: str | None) -> Record:
    if not second:
        raise ValueError("expected a second text beside the text, but none came; add --second")
    return {"text_a": text, "text_b": second}


def _encode(
    task: str,
    records: Sequence[Record],
    targets: Sequence[Target],
    tokenizer: "PreTrainedTokenizerFast",
    max_length: int,
) -> list[Example]:
    if not records:
        return []
    encoded = tokenizer(
        [record["text_a"] for record in records],
        [record["text_b"] for record in records],
        truncation="longest_first",
        max_length=max_length,
        return_token_type_ids=True,
    )
    rows = zip(encoded["input_ids"], encoded["token_type_ids"], targets, strict=True)
    return [Example(task, index, ids, types, target) for index, (ids, types, target) in enumerate(rows)]


def _correlation(coefficient: Any, gold: Sequence[float], predictions: Sequence[float]) -> float:
    from scipy.stats import DegenerateDataWarning

    if len(gold) < 2:
        return 0.0
    with warnings.catch_warnings():  # scipy warns of a constant side, whose correlation it calls nan
        warnings.simplefilter("ignore", DegenerateDataWarning)
        value = float(coefficient(gold, predictions).statistic)
    return 0.0 if math.isnan(value) else value
