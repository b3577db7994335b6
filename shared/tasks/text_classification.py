"""Text classification: one label of several, or any number of labels.

Head: the mean of the encoder's states over the text, or the state of [CLS]; dropout, a linear layer. The mean is the
default because the bundled backbone was pretrained to carry a sentence in its mean: with 600 training rows and two
seeds, [CLS] scored 5 points of macro-F1 less on sentences of legal decisions, within 3 either way on financial news and
medical abstracts. Loss: cross-entropy; with several labels, the mean over labels of binary cross-entropy.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, final

import numpy as np
from pydantic import model_validator

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
from shared.tasks.documents import Document
from shared.tasks.labels import (
    ClassWeights,
    Labels,
    check_weights,
    label_answer,
    label_scores,
    label_target,
    likeliest,
    renamed,
    require_known,
    require_label,
)
from shared.tasks.layers import Layers, Linear
from shared.tasks.tags import Scheme
from shared.tasks.tally import LabelsTally, LabelTally

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class TextClassificationSpec(Spec):
    """`[tasks.NAME]` of a text classification."""

    type: Literal["text-classification"]
    labels: Labels
    """All labels, in the order of the head's outputs."""
    multi_label: bool = False
    """Whether any number of labels may apply to a text, instead of exactly one."""
    class_weights: ClassWeights | None = None
    """Each row's loss is multiplied by its label's weight; with several labels, the loss of each that applies is.

    The loss is not divided by the weights of a batch, so that a row's loss depends on no other row.
    """
    pooling: Pooling = "mean"
    """What the head reads: the mean of the states, or that of [CLS]."""
    label_smoothing: LabelSmoothing = 0.0
    """Of a single label."""

    @model_validator(mode="after")
    def _one_weight_per_label(self) -> Self:
        check_weights(self.labels, self.class_weights)
        return self


@final
class TextClassification(Task):
    """A text and its label, or labels."""

    card = Card(
        summary="what a text is about or says: one label, or several",
        record='{"text", "label"}, or {"text", "labels": [...]} where several may apply',
        head="mean over the text's sub-tokens, or [CLS]; dropout, linear",
        loss="cross-entropy; binary cross-entropy where several labels may apply; class weights",
        metrics="macro_f1, accuracy, mcc; macro_f1, micro_f1, exact_match",
        source="Devlin et al. 2019, section 4.1; pooling as in Reimers and Gurevych 2019",
    )
    free_texts = ("text",)
    written = ("text",)
    lists = ("labels",)
    targets = ("label", "labels")

    def __init__(self, name: str, spec: TextClassificationSpec) -> None:
        self.name = name
        self.labels = spec.labels
        self.label_smoothing = spec.label_smoothing
        self.multi_label = spec.multi_label
        self.class_weights = spec.class_weights
        self.pooling = spec.pooling
        self.metric = "macro_f1"
        self.tally = LabelsTally(spec.labels) if spec.multi_label else LabelTally(spec.labels, spec.labels)

    def check_input(self, record: Record) -> None:
        """Raise ValueError unless the record has text."""
        require_text(record, "text")

    def check_target(self, record: Record) -> None:
        """Raise ValueError unless the record has labels of this task."""
        if not self.multi_label:
            require_label(record, self.labels)
            return
        labels = record.get("labels")
        if not isinstance(labels, list):
            raise ValueError(f"expected a list in 'labels', but {shown(labels)} came")
        for label in labels:
            require_known(label, self.labels)

    def texts_of(self, record: Record) -> list[str]:
        """The text."""
        return [record["text"]]

    def labels_of(self, record: Record) -> list[str]:
        """The label, or the labels."""
        if self.multi_label:
            return list(record.get("labels", ()))
        return [record["label"]] if "label" in record else []

    def encode(self, records: Sequence[Record], tokenizer: "PreTrainedTokenizerFast", max_length: int) -> list[Example]:
        """One example per record, cut at `max_length`."""
        if not records:
            return []
        encoded = tokenizer([record["text"] for record in records], truncation=True, max_length=max_length)
        return [
            Example(self.name, index, ids, [0] * len(ids), self._target(record))
            for index, (record, ids) in enumerate(zip(records, encoded["input_ids"], strict=True))
        ]

    def layers(self, hidden: int, vocabulary: int) -> Layers:
        """One."""
        return {"linear": Linear(hidden, len(self.labels))}

    def from_text(self, text: str, second: str | None = None) -> Record:
        """A record of the text."""
        return {"text": text}

    def records_of(self, document: Document) -> list[Record]:
        """The text and the labels of the whole; ValueError if there are several where one may apply."""
        record, labels = {**document.beside, "text": document.text}, list(document.labels)
        if self.multi_label:
            return [{"labels": labels, **record}]
        if len(labels) > 1:
            raise ValueError(f"expected one label, but {shown(labels)} came")
        return [{**record, "label": labels[0]} if labels else record]

    def outputs(self) -> Sequence[str | None]:
        """The labels."""
        return self.labels

    def relabel(self, record: Record, rename: Mapping[str, str], scheme: Scheme) -> Record:
        """The record with its label renamed."""
        return renamed(record, rename, self.labels)

    def predict(self, examples: Sequence[Example], logits: Sequence[np.ndarray]) -> dict[int, Any]:
        """The likeliest label; with several labels, those above one half."""
        return {e.record: self._decode(e, row) for e, row in zip(examples, logits, strict=True)}

    def answer(
        self, records: Sequence[Record], examples: Sequence[Example], logits: Sequence[np.ndarray]
    ) -> dict[int, Any]:
        """`label` and `score`, its probability; with several labels, those above one half, the likeliest first."""
        if not self.multi_label:
            return {e.record: label_answer(row, self.labels) for e, row in zip(examples, logits, strict=True)}
        return {e.record: self._applying(row) for e, row in zip(examples, logits, strict=True)}

    def score(self, records: Sequence[Record], predictions: Sequence[Any]) -> dict[str, float]:
        """One label: macro-F1, accuracy, MCC (in [-1, 1]). Several: macro-F1, micro-F1, exact match of the set.

        Macro-F1 is the mean over the labels that occur in records or predictions, as in scikit-learn; what is
        undefined (nothing to find and nothing found) counts 0.
        """
        from sklearn.metrics import accuracy_score, f1_score

        if self.multi_label:
            gold = np.array([self._bits(record["labels"]) for record in records])
            found = np.array([self._bits(prediction) for prediction in predictions])
            occurring = np.flatnonzero((gold | found).any(0))
            macro = f1_score(gold, found, average="macro", labels=occurring, zero_division=0) if len(occurring) else 0.0
            return {
                "macro_f1": float(macro),
                "micro_f1": float(f1_score(gold, found, average="micro", zero_division=0)),
                "exact_match": float(accuracy_score(gold, found)),
            }
        return label_scores([record["label"] for record in records], predictions)

    def _target(self, record: Record) -> Target:
        if not self.multi_label:
            return label_target(record, self.labels)
        return {"labels": self._bits(record["labels"])} if "labels" in record else {}

    def _bits(self, labels: Sequence[str]) -> list[int]:
        return [int(label in labels) for label in self.labels]

    def _applying(self, row: np.ndarray) -> list[dict[str, Any]]:
        chances = 1 / (1 + np.exp(-row.astype(np.float64)))
        found = [{"label": self.labels[i], "score": float(chances[i])} for i in np.argsort(-row, kind="stable")]
        return found[: int((row > 0).sum())]

    def _decode(self, example: Example, row: np.ndarray) -> Any:
        if self.multi_label:
            known = example.target.get("known", (True,) * len(self.labels))
            return [label for label, logit, own in zip(self.labels, row, known, strict=True) if logit > 0 and own]
        return likeliest(example, row, self.labels)
