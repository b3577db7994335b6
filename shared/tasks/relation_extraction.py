"""Relation extraction: which relation, if any, holds between two marked entities of a sentence.

Markers of punctuation and, where types are given, of the types' own words stand round the entities: "@ * drug *
aspirin @" and "# ^ disease ^ ulcer #" (Zhou and Chen 2021). They are in every BERT's vocabulary, so that the embeddings
stay frozen. The head reads the states of both first markers (Zhong and Chen 2021).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, final

import numpy as np
from pydantic import model_validator

from shared.errors import listed
from shared.tasks.base import (
    Card,
    Example,
    LabelSmoothing,
    Record,
    Spec,
    Task,
    require_words,
    shown,
)
from shared.tasks.documents import Document, pairs
from shared.tasks.labels import (
    ClassWeights,
    Labels,
    check_weights,
    label_answer,
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

Span = tuple[int, int]
"""First position, and the one after the last."""
SIGNS = {"head": ("@", "*"), "tail": ("#", "^")}
"""What stands round each entity, and round its type."""


class RelationExtractionSpec(Spec):
    """`[tasks.NAME]` of a relation extraction."""

    type: Literal["relation-extraction"]
    labels: Labels
    """All labels, in the order of the head's outputs."""
    class_weights: ClassWeights | None = None
    """Each row's loss is multiplied by its label's weight, and divided by nothing.

    Where most rows have no relation, a low weight of that label keeps it from becoming the only answer, especially with
    few records or under [privacy].
    """
    label_smoothing: LabelSmoothing = 0.0
    """Share of the target that is spread over all labels in training."""
    no_relation: str | None = None
    """The label that says that no relation holds; F1 is over the others. Without it, over all labels."""

    @model_validator(mode="after")
    def _no_relation_is_a_label(self) -> Self:
        if self.no_relation is not None and self.no_relation not in self.labels:
            raise ValueError(f"no_relation must be among the labels {listed(self.labels)}, not {self.no_relation!r}")
        return self

    @model_validator(mode="after")
    def _one_weight_per_label(self) -> Self:
        check_weights(self.labels, self.class_weights)
        return self


@final
class RelationExtraction(Task):
    """A sentence, two of its entities, and the relation between them."""

    card = Card(
        summary="which relation, if any, holds between two entities of a sentence",
        record='{"tokens": [...], "head": [start, end), "tail": [start, end), "label"}, also "head_type", "tail_type"',
        head="states of both entities' first markers side by side, dropout, linear",
        loss="cross-entropy, no relation being a label",
        metrics="micro_f1, macro_f1 without no relation; accuracy",
        source="Zhou and Chen 2021 (typed punctuation markers); Zhong and Chen 2021 (head)",
    )
    free_words = ("tokens",)
    written = ("tokens",)
    lists = ("tokens", "head", "tail")
    targets = ("label",)

    def __init__(self, name: str, spec: RelationExtractionSpec) -> None:
        self.name = name
        self.metric = "micro_f1"
        self.labels = spec.labels
        self.class_weights = spec.class_weights
        self.label_smoothing = spec.label_smoothing
        self.no_relation = spec.no_relation
        self.relations = tuple(label for label in spec.labels if label != spec.no_relation)
        self.tally = LabelTally(spec.labels, self.relations, ("micro_f1", "macro_f1", "accuracy"))

    def check_input(self, record: Record) -> None:
        """Raise ValueError unless both entities are places in the sentence.

        One entity may stand inside the other or overlap it (nested and discontinuous mentions), but not be the same.
        """
        _entities(record)

    def check_target(self, record: Record) -> None:
        """Raise ValueError unless the label is one of this task."""
        require_label(record, self.labels)

    def texts_of(self, record: Record) -> list[str]:
        """The sentence with its markers, which tell apart the pairs of entities in one sentence."""
        return [" ".join(_mark(record)[0])]

    def labels_of(self, record: Record) -> list[str]:
        """The label."""
        return [record["label"]] if "label" in record else []

    def encode(self, records: Sequence[Record], tokenizer: "PreTrainedTokenizerFast", max_length: int) -> list[Example]:
        """One example per record; of a longer sentence stays what is nearest to the entities (see `_kept`).

        Raises:
            ValueError: An entity is no place in its sentence, which `check` would have said.
        """
        if not records:
            return []
        marked = [_mark(record) for record in records]
        encoded = tokenizer(
            [words for words, _ in marked], is_split_into_words=True, add_special_tokens=False, verbose=False
        )
        cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        examples = []
        for index, (record, (_, markers)) in enumerate(zip(records, marked, strict=True)):
            pieces, words = encoded["input_ids"][index], encoded.word_ids(index)
            places = {name: [words.index(word) for word in positions] for name, positions in markers.items()}
            kept = _kept(len(words), places, max_length - 2)
            examples.append(
                Example(
                    self.name,
                    index,
                    [cls, *(pieces[i] for i in kept), sep],
                    [0] * (len(kept) + 2),
                    label_target(record, self.labels),
                    inputs={name: 1 + kept.index(positions[0]) for name, positions in places.items()},
                )
            )
        return examples

    def layers(self, hidden: int, vocabulary: int) -> Layers:
        """One."""
        return {"linear": Linear(2 * hidden, len(self.labels))}

    def from_text(self, text: str, second: str | None = None) -> Record:
        """Plain text does not say where the entities are."""
        raise ValueError("expected the places of two entities, which plain text cannot give; use --file with records")

    def records_of(self, document: Document) -> list[Record]:
        """A record for each relation, and for two entities of one sentence without one, if there is such a label."""
        return list(pairs(document, self.no_relation))

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
        """Micro- and macro-F1 of the relations (not of no relation) by scikit-learn, and accuracy over all labels.

        Macro-F1 is the mean over the relations that occur in records or predictions; both are 0 where none does.
        """
        from sklearn.metrics import accuracy_score, f1_score

        truth = [record["label"] for record in records]
        occurring = [label for label in self.relations if label in truth or label in predictions]
        scores = {"micro_f1": 0.0, "macro_f1": 0.0, "accuracy": float(accuracy_score(truth, predictions))}
        for average in ("micro", "macro") if occurring else ():
            f1 = f1_score(truth, predictions, labels=occurring, average=average, zero_division=0)
            scores[f"{average}_f1"] = float(f1)
        return scores


def _entities(record: Record) -> dict[str, Span]:
    """Where head and tail stand; ValueError says what is wrong with them or with the sentence."""
    tokens = require_words(record)
    spans: dict[str, Span] = {}
    for name in SIGNS:
        span = record.get(name)
        if not isinstance(span, list | tuple) or len(span) != 2 or not all(type(edge) is int for edge in span):
            raise ValueError(f"expected token positions [start, end) in {name!r}, but {shown(span)} came")
        start, end = span
        if start < 0 or end > len(tokens):
            raise ValueError(f"expected {name!r} inside the {len(tokens)} tokens, but [{start}, {end}) came")
        if start >= end:
            raise ValueError(f"expected at least one token in {name!r}, but [{start}, {end}) came")
        kind = record.get(f"{name}_type")
        if kind is not None and not isinstance(kind, str):
            raise ValueError(f"expected text or nothing in '{name}_type', but {shown(kind)} came")
        spans[name] = (start, end)
    if spans["head"] == spans["tail"]:
        raise ValueError(f"expected two entities, but 'head' and 'tail' are both [{start}, {end})")
    return spans


def _mark(record: Record) -> tuple[list[str], dict[str, list[int]]]:
    """The sentence's words with the markers among them, and where the signs of each entity stand in these.

    Where entities share an edge, the inner one's markers are the inner ones.
    """
    spans = _entities(record)
    outer_first = sorted(spans, key=lambda name: spans[name][0] - spans[name][1])
    words: list[str] = []
    markers: dict[str, list[int]] = {name: [] for name in SIGNS}

    def add(name: str, sign: str) -> None:
        markers[name].append(len(words))
        words.append(sign)

    for position, token in enumerate([*record["tokens"], ""]):
        for name in reversed(outer_first):
            if spans[name][1] == position:
                add(name, SIGNS[name][0])
        for name in outer_first:
            if spans[name][0] == position:
                add(name, SIGNS[name][0])
                if kind := (record.get(f"{name}_type") or "").replace("_", " ").lower().split():
                    add(name, SIGNS[name][1])
                    words += kind
                    add(name, SIGNS[name][1])
        words.append(token)
    return words[:-1], markers


def _kept(count: int, places: Mapping[str, Sequence[int]], room: int) -> list[int]:
    """Which of `count` sub-tokens stay where only `room` can, in order.

    First the markers, then the beginnings of both entities, then what stands between them, then what stands round them,
    each time the nearest: a window if both entities fit in one, else one round each.

    Args:
        count: Sub-tokens of the marked sentence.
        places: Per entity, the positions of its markers' signs: the first, those of the type if any, the last.
        room: How many may stay, at least the number of signs.
    """
    if count <= room:
        return list(range(count))
    signs = {place for positions in places.values() for place in positions}
    edges = [(positions[0], positions[-1]) for positions in places.values()]
    (begin, _), (_, stop) = min(edges), max(edges, key=lambda edge: edge[1])
    between = min(last for _, last in edges), max(first for first, _ in edges)

    def rank(place: int) -> tuple[int, int]:
        if place in signs:
            return 0, 0
        if inside := [place - first for first, last in edges if first < place < last]:
            return 1, min(inside)
        if begin < place < stop:
            return 2, min(place - between[0], between[1] - place)
        return 3, max(begin - place, place - stop)

    return sorted(sorted(range(count), key=rank)[:room])
