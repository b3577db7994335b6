"""Extractive summarisation in the manner of BERTSUM: which sentences of a document make its summary.

Input: [CLS] sentence [SEP] [CLS] sentence [SEP] ..., segment ids 0 and 1 in turn; a document longer than the model's
input is read in windows of whole sentences. The head scores each sentence by the state of its [CLS]. Liu and Lapata
2019. Here the positions that the inter-sentence transformer sees are those in the document, not in the window; and
where a record has a query, what the summary should answer, every window begins with it as if it were a sentence.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

import numpy as np
from pydantic import Field

from shared.tasks import rouge
from shared.tasks.base import Card, Example, Record, Spec, Task, require_text, shown
from shared.tasks.layers import Layers, Linear, Norm, transformer
from shared.tasks.tally import MeanTally

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BORDER = re.compile(r"""(?:(?<=[.!?])|(?<=[.!?]["')\]\u201d\u2019]))\s+(?=["'(\[\u201c\u2018]?(\w))""")
"""White space after end punctuation; captured is the letter that follows, which must be a capital."""


class ExtractiveSummarizationSpec(Spec):
    """`[tasks.NAME]` of an extractive summarisation."""

    type: Literal["extractive-summarization"]
    summary_sentences: Annotated[int, Field(ge=1)] = 3
    """Most sentences of a predicted summary, and of the labels derived for records without `oracle`."""
    trigram_blocking: bool = True
    """Pass over a sentence that shares three words in a row with one already chosen."""
    head: Literal["transformer", "linear"] = "transformer"
    """`transformer` lets sentences see each other (BERTSUM); `linear` scores each by itself."""
    sentence_state: Literal["mean", "cls"] = "mean"
    """What the head reads of a sentence: `cls`, the state of its [CLS] (BERTSUM), or the `mean` over its sub-tokens.

    The states of several [CLS] in a text are alike in a backbone that was not pretrained with them; the means are not.
    """


LAYERS = 2
"""Of the transformer over sentences."""


@final
class ExtractiveSummarization(Task):
    """A document's sentences, its summary, and which sentences come closest to it."""

    card = Card(
        summary="which sentences of a document make its summary",
        record='{"sentences": [...], "summary": [...]}; may have "query", and "oracle": [indices], else found greedily',
        head="[CLS] of each sentence, 2-layer inter-sentence transformer, linear; or linear alone",
        loss="binary cross-entropy, mean over the sentences of a window",
        metrics="rouge1, rouge2, rougeLsum; lead_rouge1 and oracle_rouge1 for comparison",
        source="Liu and Lapata 2019, section 3; Nallapati et al. 2017; Paulus et al. 2018 (trigram blocking); Lin 2004",
    )
    lists = ("sentences", "summary", "oracle")
    written = ("sentences", "summary", "query")
    targets = ("summary", "oracle")

    def __init__(self, name: str, spec: ExtractiveSummarizationSpec) -> None:
        self.name = name
        self.metric = "rouge1"
        self.tally = MeanTally("rouge1", lambda record, found: [rouge.f1(record["summary"], found["text"])["rouge1"]])
        self.spec = spec

    def check_input(self, record: Record) -> None:
        """Raise ValueError unless there are sentences, and text in a query."""
        _texts(record.get("sentences"), "sentences")
        if "query" in record:
            require_text(record, "query")

    def check_target(self, record: Record) -> None:
        """Raise ValueError unless there is a summary, and each index of an oracle is a sentence's."""
        count = len(record["sentences"])
        _texts(record.get("summary"), "summary")
        if "oracle" not in record:
            return
        oracle = record["oracle"]
        if not isinstance(oracle, list):
            raise ValueError(f"expected a list of sentence indices in 'oracle', but {shown(oracle)} came")
        for place, index in enumerate(oracle):
            if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < count:
                raise ValueError(f"expected an index from 0 to {count - 1} in 'oracle', but {shown(index)} came")
            if index in oracle[:place]:
                raise ValueError(f"expected each index once in 'oracle', but {index} came twice")

    def texts_of(self, record: Record) -> list[str]:
        """The document's sentences."""
        return list(record["sentences"])

    def encode(self, records: Sequence[Record], tokenizer: "PreTrainedTokenizerFast", max_length: int) -> list[Example]:
        """One example per window of a record's sentences.

        A sentence longer than a window is cut to it; a query is cut to leave the sentences half of the room.
        """
        documents = [_texts(record["sentences"], "sentences") for record in records]
        flat = [sentence for document in documents for sentence in document]
        if not flat:
            return []
        pieces = iter(tokenizer(flat, truncation=True, max_length=max_length, verbose=False)["input_ids"])
        sep = tokenizer.sep_token_id
        examples = []
        for index, (record, document) in enumerate(zip(records, documents, strict=True)):
            query = _query(record, tokenizer, max_length // 2)
            room = max_length - len(query)
            ids = [
                piece if len(piece) <= room else [*piece[: room - 1], sep] for piece in (next(pieces) for _ in document)
            ]
            oracle = self._oracle(record)
            for start, end in _windows([len(sentence) for sentence in ids], room):
                parts = [part for part in (query, *ids[start:end]) if part]
                ends = [*itertools.accumulate(len(part) for part in parts)]
                positions = [0, *ends[:-1]]
                examples.append(
                    Example(
                        self.name,
                        index,
                        [token for part in parts for token in part],
                        [i % 2 for i, part in enumerate(parts) for _ in part],
                        {} if oracle is None else {"chosen": [int(i in oracle) for i in range(start, end)]},
                        {"first": start, "sentences": document[start:end]},
                        {"first": start, "positions": positions[start - end :], "ends": ends[start - end :]},
                    )
                )
        return examples

    def layers(self, hidden: int, vocabulary: int) -> Layers:
        """One, or a transformer before it."""
        last = {"linear": Linear(hidden, 1)}
        if self.spec.head == "linear":
            return last
        found: dict[str, Any] = {"norm": Norm(hidden)}
        for number in range(LAYERS):
            found |= transformer(f"layers.{number}", hidden, {"attention_norm": ""})
        return found | last

    def from_text(self, text: str, second: str | None = None) -> Record:
        """A record of the text's sentences, cut where `split_sentences` says; `second` is the query."""
        return {"sentences": split_sentences(text)} | ({"query": second} if second else {})

    def predict(self, examples: Sequence[Example], logits: Sequence[np.ndarray]) -> dict[int, Any]:
        """Per record `sentences`, the indices of those chosen from all its windows in order, and their `text`."""
        found: dict[int, dict[int, tuple[float, str]]] = {}
        for example, scores in zip(examples, logits, strict=True):
            first, sentences = example.decoding["first"], example.decoding["sentences"]
            document = found.setdefault(example.record, {})
            for i, sentence in enumerate(sentences):  # the row may be padded beyond them
                document[first + i] = (float(scores[i]), sentence)
        return {record: self._summary(document) for record, document in found.items()}

    def answer(
        self, records: Sequence[Record], examples: Sequence[Example], logits: Sequence[np.ndarray]
    ) -> dict[int, Any]:
        """`summary_text`, the chosen sentences in a line, and `sentences`, which of the document they are."""
        found = {key: one["sentences"] for key, one in self.predict(examples, logits).items()}
        return {
            key: {"summary_text": " ".join(records[key]["sentences"][i] for i in chosen), "sentences": chosen}
            for key, chosen in found.items()
        }

    def score(self, records: Sequence[Record], predictions: Sequence[Any]) -> dict[str, float]:
        """Mean ROUGE F1, and for comparison ROUGE-1 of the first `summary_sentences` and of the oracle's sentences."""
        scores = []
        for record, prediction in zip(records, predictions, strict=True):
            sentences, summary = record["sentences"], record["summary"]
            lead = sentences[: self.spec.summary_sentences]
            oracle = [sentences[i] for i in sorted(self._oracle(record) or ())]
            row = rouge.f1(summary, prediction["text"])
            for name, reference_point in (("lead_rouge1", lead), ("oracle_rouge1", oracle)):
                row[name] = rouge.f1(summary, reference_point, ("rouge1",))["rouge1"]
            scores.append(row)
        return {metric: float(np.mean([row[metric] for row in scores])) for metric in scores[0]}

    def _oracle(self, record: Record) -> frozenset[int] | None:
        """The sentences to learn: as the record says, or else the greedy choice; None without a summary."""
        if "oracle" in record:
            return frozenset(record["oracle"])
        if "summary" not in record:
            return None
        texts = tuple(record["sentences"]), tuple(record["summary"])
        return frozenset(rouge.greedy_oracle(*texts, self.spec.summary_sentences))

    def _summary(self, document: dict[int, tuple[float, str]]) -> dict[str, Any]:
        chosen: list[int] = []
        seen: set[tuple[str, ...]] = set()
        for index in sorted(document, key=lambda i: (-document[i][0], i)):
            if len(chosen) == self.spec.summary_sentences:
                break
            trigrams = set(rouge.ngrams(rouge.words(document[index][1]), 3)) if self.spec.trigram_blocking else set()
            if not trigrams & seen:
                chosen.append(index)
                seen |= trigrams
        return {"sentences": sorted(chosen), "text": [document[i][1] for i in sorted(chosen)]}


def split_sentences(text: str) -> list[str]:
    """Cut a text at line breaks, and after `.`, `!` or `?` where white space and a capital letter follow.

    A quotation mark or bracket may stand before the white space or before the capital. Abbreviations are not known:
    "Dr. Smith" is cut.
    """
    sentences = []
    for line in text.splitlines():
        start = 0
        for border in BORDER.finditer(line):
            if border[1].isupper():
                sentences.append(line[start : border.start()])
                start = border.end()
        sentences.append(line[start:])
    return [stripped for sentence in sentences if (stripped := sentence.strip())]


def _texts(value: Any, field: str) -> list[str]:
    """The non-empty texts in a field; ValueError says what came instead."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"expected a list of sentences in {field!r}, but {shown(value)} came")
    for place, text in enumerate(value):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"expected text at sentence {place} of {field!r}, but {shown(text)} came")
    return value


def _query(record: Record, tokenizer: "PreTrainedTokenizerFast", max_length: int) -> list[int]:
    """Sub-tokens of the record's query with [CLS] and [SEP], cut; none without a query."""
    if not record.get("query"):
        return []
    ids: list[int] = tokenizer(record["query"], truncation=True, max_length=max_length, verbose=False)["input_ids"]
    return ids


def _windows(lengths: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """Runs of whole sentences, each as long as fits `size` sub-tokens; no sentence is longer than that."""
    start, used = 0, 0
    for i, length in enumerate(lengths):
        if used + length > size:
            yield start, i
            start, used = i, 0
        used += length
    yield start, len(lengths)
