"""Next sentence prediction: whether one sentence follows another.

A labelled record is a document in sentences. Its examples are pairs of neighbours, and for each one a pair whose second
sentence comes from another document of the same institution and split, so that no sentence leaves its site. Such a pair
is of two records, which differential privacy per record or owner excludes: `strangers = "document"` takes it from the
same document.
"""

import itertools
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

import numpy as np
from pydantic import Field

from shared.tasks.base import Card, Example, Record, Spec, Target, Task, require_text, shown
from shared.tasks.labels import label_answer
from shared.tasks.layers import Layers, Linear
from shared.tasks.tally import Sums, f1, ratio

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

DRAWS = 32
"""Tries to find a stranger by drawing; where all fail, most of the pool is unfit, and it is searched in order."""
Place = tuple[int, int]
"""Which document of the pool, and which sentence of it."""


ANSWERS = ("does not follow", "follows")
"""What the head's two outputs say of the second sentence."""


class NextSentencePredictionSpec(Spec):
    """`[tasks.NAME]` of a next sentence prediction."""

    type: Literal["next-sentence-prediction"]
    pairs_per_document: Annotated[int, Field(ge=1)] = 8
    """Most pairs of neighbours taken from one document; each brings a pair of strangers besides."""
    strangers: Literal["pool", "document"] = "pool"
    """Where a sentence that does not follow comes from: any other document of the `pool`, or the same `document`."""

    def crosses_records(self) -> str | None:
        """A stranger of the pool is another record's sentence."""
        if self.strangers == "document":
            return None
        return 'strangers must be "document", since a pair with another document\'s sentence is of two records'


class PairsTally:
    """Of pairs of sentences in a document."""

    def count(self, record: Record, prediction: Any) -> Sums:
        """Pairs by what is true and what was found: [4]."""
        counts = np.zeros((2, 2))
        for pair in prediction:
            counts[int(pair["truth"]), int(pair["found"])] += 1
        return counts.ravel()

    def scores(self, sums: Sums, deviation: float = 0.0) -> dict[str, float]:
        """Accuracy, and F1 of the pairs that do follow."""
        (strange, false), (missed, right) = np.maximum(sums, 0.0).reshape(2, 2)
        return {
            "accuracy": ratio(strange + right, strange + false + missed + right),
            "f1": f1(right, false, missed),
        }


@final
class NextSentencePrediction(Task):
    """Two sentences, and whether the second follows the first."""

    card = Card(
        summary="whether one sentence follows another",
        record='{"sentences": [...]}, a document; to ask of two sentences, {"text_a", "text_b"}',
        head="[CLS], dropout, linear",
        loss="cross-entropy",
        metrics="accuracy, f1 (of the pairs that do follow), both over pairs",
        source="Devlin et al. 2019, section 3.1",
    )
    lists = ("sentences",)
    written = ("sentences", "text_a", "text_b")

    def __init__(self, name: str, spec: NextSentencePredictionSpec) -> None:
        self.name = name
        self.metric = "accuracy"
        self.pairs_per_document = spec.pairs_per_document
        self.strangers = spec.strangers
        if spec.strangers == "document":
            self.tally = PairsTally()

    def check_input(self, record: Record) -> None:
        """Raise ValueError unless the record is a document of at least two sentences, or two texts to ask of."""
        if "sentences" not in record and "text_a" in record:
            require_text(record, "text_a")
            require_text(record, "text_b")
            return
        sentences = record.get("sentences")
        if not isinstance(sentences, list) or len(sentences) < 2:
            raise ValueError(f"expected a list of at least two sentences in 'sentences', but {shown(sentences)} came")
        for number, sentence in enumerate(sentences):
            if not isinstance(sentence, str) or not sentence.strip():
                raise ValueError(f"expected text as sentence {number}, but {shown(sentence)} came")

    def check_target(self, record: Record) -> None:
        """Raise ValueError unless the record is a document, which says what follows what."""
        if "sentences" not in record:
            raise ValueError("expected a list of at least two sentences in 'sentences', but None came")

    def texts_of(self, record: Record) -> list[str]:
        """The document's sentences, or the two that are asked of."""
        return list(_sentences_of(record)) or [record["text_a"], record["text_b"]]

    def encode(self, records: Sequence[Record], tokenizer: "PreTrainedTokenizerFast", max_length: int) -> list[Example]:
        """Per document its pairs of neighbours, each followed by a pair of strangers; one example per given pair.

        Both sentences are cut to fit `max_length`, the longer one first. What is drawn at random depends only on
        the document and on the others that come with it.
        """
        documents = [_sentences_of(record) for record in records]
        pool = [(d, s) for d, sentences in enumerate(documents) for s in range(len(sentences))]
        rows: list[tuple[int, str, str, Target]] = []
        for index, (record, sentences) in enumerate(zip(records, documents, strict=True)):
            if not sentences:
                rows.append((index, record["text_a"], record["text_b"], {}))
                continue
            rng = np.random.default_rng(zlib.crc32("\n".join(sentences).encode()))
            for first in np.sort(rng.permutation(len(sentences) - 1)[: self.pairs_per_document]).tolist():
                rows.append((index, sentences[first], sentences[first + 1], {"follows": 1}))
                own = pool if self.strangers == "pool" else [(index, s) for s in range(len(sentences))]
                stranger = _stranger((index, first), documents, own, rng)
                if stranger is not None:
                    rows.append((index, sentences[first], stranger, {"follows": 0}))
        if not rows:
            return []
        encoded = tokenizer([row[1] for row in rows], [row[2] for row in rows], truncation=True, max_length=max_length)
        return [
            Example(self.name, index, ids, kinds, target)
            for (index, _, _, target), ids, kinds in zip(
                rows, encoded["input_ids"], encoded["token_type_ids"], strict=True
            )
        ]

    def layers(self, hidden: int, vocabulary: int) -> Layers:
        """One."""
        return {"linear": Linear(hidden, 2)}

    def from_text(self, text: str, second: str | None = None) -> Record:
        """A record of both sentences."""
        if not second:
            raise ValueError("expected a second sentence beside the text, but none came; add --second")
        return {"text_a": text, "text_b": second}

    def predict(self, examples: Sequence[Example], logits: Sequence[np.ndarray]) -> dict[int, Any]:
        """Of two given sentences, whether the second follows; of a document, its pairs' `truth` and what was `found`.

        The truth stands beside what was found because the pairs are drawn when a document is encoded.
        """
        predictions: dict[int, Any] = {}
        for example, row in zip(examples, logits, strict=True):
            found = bool(row.argmax())
            if example.target:
                pair = {"truth": bool(example.target["follows"]), "found": found}
                predictions.setdefault(example.record, []).append(pair)
            else:
                predictions[example.record] = found
        return predictions

    def answer(
        self, records: Sequence[Record], examples: Sequence[Example], logits: Sequence[np.ndarray]
    ) -> dict[int, Any]:
        """Of two sentences `label`, whether the second follows, and its probability `score`; else as `predict`."""
        asked = {e.record: label_answer(row, ANSWERS) for e, row in zip(examples, logits, strict=True) if not e.target}
        return self.predict(examples, logits) | asked

    def score(self, records: Sequence[Record], predictions: Sequence[Any]) -> dict[str, float]:
        """Accuracy and F1 over all pairs of all documents; the pairs that do follow are the positive ones."""
        from sklearn.metrics import accuracy_score, f1_score

        pairs = [pair for prediction in predictions for pair in prediction]
        truth, found = [pair["truth"] for pair in pairs], [pair["found"] for pair in pairs]
        return {
            "accuracy": float(accuracy_score(truth, found)),
            "f1": float(f1_score(truth, found, zero_division=0)),
        }


def _sentences_of(record: Mapping[str, Any]) -> Sequence[str]:
    """A document's sentences; none where the record is a pair to ask of."""
    if "sentences" not in record:
        return ()
    sentences: Sequence[str] = record["sentences"]
    if len(sentences) < 2:
        raise ValueError(f"expected at least two sentences, but {shown(sentences)} came")
    return sentences


def _stranger(
    place: Place, documents: Sequence[Sequence[str]], pool: Sequence[Place], rng: np.random.Generator
) -> str | None:
    """A sentence that does not follow `place`: of another document, or, where there is none, not next to it.

    None where no sentence is left. A sentence that reads like the true next one is never taken.
    """
    document, first = place
    true = documents[document][first + 1]
    alone = len(pool) == len(documents[document])
    drawn: list[int] = rng.integers(len(pool), size=DRAWS).tolist()
    for choice in itertools.chain(drawn, range(len(pool))):
        other, sentence = pool[choice]
        strange = abs(sentence - first) > 1 if alone else other != document
        if strange and documents[other][sentence] != true:
            return documents[other][sentence]
    return None
