"""Token classification (named entities): BIO tags on words, carried by each word's first sub-token.

A document longer than the model's input is cut into windows between words, so that no word is lost. Scores are
seqeval's in strict mode (IOB2), which equal conlleval's on legal sequences; predictions are made legal first.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

import numpy as np
from pydantic import AfterValidator, Field

from shared.errors import listed
from shared.tasks.base import (
    IGNORE,
    Card,
    Example,
    LabelSmoothing,
    Record,
    Spec,
    Target,
    Task,
    require_words,
    shown,
    unique,
)
from shared.tasks.documents import WORD, Document, tagged
from shared.tasks.labels import hint, named, softmax, spelt
from shared.tasks.layers import Layers, Linear
from shared.tasks.tags import Scheme, begun, to_bio
from shared.tasks.tally import FoundTally

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class TokenClassificationSpec(Spec):
    """`[tasks.NAME]` of a token classification."""

    type: Literal["token-classification"]
    types: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(unique)]
    """The entity types; tags are `B-TYPE`, `I-TYPE` and `O`."""
    label_smoothing: LabelSmoothing = 0.0
    """Share of the target that is spread over all tags in training."""
    decoding: Literal["greedy", "viterbi"] = "greedy"
    """`greedy` takes each word's likeliest tag and makes the sequence legal; `viterbi` the likeliest legal sequence."""


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
    written = ("tokens",)
    lists = ("tokens", "tags")
    targets = ("tags",)

    def __init__(self, name: str, spec: TokenClassificationSpec) -> None:
        self.name = name
        self.metric = "f1"
        self.labels = spec.types
        self.label_smoothing = spec.label_smoothing
        self.decoding = spec.decoding
        self.tally = FoundTally(lambda record, tags: (_entities(record["tags"]), _entities(tags)))
        self.tags = ("O", *(f"{prefix}-{kind}" for kind in spec.types for prefix in "BI"))

    def check_input(self, record: Record) -> None:
        """Raise ValueError unless there are words."""
        require_words(record)

    def check_target(self, record: Record) -> None:
        """Raise ValueError unless tokens and tags agree and the tags are legal BIO of this task."""
        tokens, tags = record["tokens"], record.get("tags")
        if not isinstance(tags, list) or len(tags) != len(tokens):
            count = len(tags) if isinstance(tags, list) else shown(tags)
            raise ValueError(f"expected {len(tokens)} tags for {len(tokens)} tokens, but {count} came")
        for position, tag in enumerate(tags):
            if tag not in self.tags:
                raise ValueError(
                    f"tag {shown(tag)} at token {position} is not among the federation's {listed(self.tags)}"
                    f"{self._hint(tag)}"
                )
            if tag[0] == "I" and (position == 0 or tags[position - 1][1:] != tag[1:]):
                raise ValueError(
                    f"tag {tag} at token {position} does not follow B{tag[1:]} or {tag}; if entities begin with I- "
                    'in this file, add scheme = "IOB" to its [data] table'
                )

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

    def encode(self, records: Sequence[Record], tokenizer: "PreTrainedTokenizerFast", max_length: int) -> list[Example]:
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

    def layers(self, hidden: int, vocabulary: int) -> Layers:
        """One."""
        return {"linear": Linear(hidden, len(self.tags))}

    def from_text(self, text: str, second: str | None = None) -> Record:
        """A record of the text's words: what white space parts, and punctuation round it by itself."""
        return {"tokens": WORD.findall(text), "text": text}

    def records_of(self, document: Document) -> list[Record]:
        """The document's words and the tags of its entities; ValueError if these overlap."""
        tokens, tags = tagged(document)
        return [{**document.beside, "tokens": tokens, "tags": tags}]

    def outputs(self) -> Sequence[str | None]:
        """The type of each tag; all share `O`."""
        return [None, *(kind for kind in self.labels for _ in "BI")]

    def relabel(self, record: Record, rename: Mapping[str, str], scheme: Scheme) -> Record:
        """The record with its tags turned into BIO and its types renamed."""
        tags = record.get("tags")
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            return record
        tags = [spelt(tag) for tag in tags]
        known = [f"{tag[:2]}{named(tag[2:], rename, self.labels)}" for tag in tags]
        return {**record, "tags": to_bio(known, scheme)}

    def predict(self, examples: Sequence[Example], logits: Sequence[np.ndarray]) -> dict[int, Any]:
        """Legal tags per record; greedily, an `I-` that continues nothing becomes `B-`."""
        decode = self._greedy if self.decoding == "greedy" else self._viterbi
        return {record: decode(scores) for record, scores in self._scores(examples, logits).items()}

    def answer(
        self, records: Sequence[Record], examples: Sequence[Example], logits: Sequence[np.ndarray]
    ) -> dict[int, Any]:
        """A list of entities in order: `entity_group`, `score`, `word`, `start`, `end`, and `tokens`.

        `score` is the mean of the probabilities of its words' tags; `word` what stands from `start` to `end` in the
        text, where words were given in these with a space between them; `tokens` its first word and the one after
        the last.
        """
        scores, found = self._scores(examples, logits), {}
        for record, tags in self.predict(examples, logits).items():
            text, places = _placed(records[record])
            chances = softmax(scores[record]) if tags else np.zeros((0, len(self.tags)))
            sure = [float(row[self.tags.index(tag)]) for row, tag in zip(chances, tags, strict=True)]
            found[record] = [
                {
                    "entity_group": kind,
                    "score": float(np.mean(sure[begin:end])),
                    "word": text[places[begin][0] : places[end - 1][1]],
                    "start": places[begin][0],
                    "end": places[end - 1][1],
                    "tokens": [begin, end],
                }
                for kind, begin, end in sorted(_entities(tags), key=lambda entity: entity[1])
            ]
        return found

    def _scores(self, examples: Sequence[Example], logits: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
        """By record what each word scores, [words, tags]; a word without sub-tokens can only be `O`."""
        found: dict[int, np.ndarray] = {}
        for example, rows in zip(examples, logits, strict=True):
            if "known" in example.target:
                rows = _folded(rows, example.target["known"])
            if example.record not in found:
                outside = np.full((example.decoding["count"], len(self.tags)), -np.inf)
                outside[:, 0] = 0.0
                found[example.record] = outside
            for word, scores in zip(example.decoding["words"], rows, strict=True):
                if word is not None:
                    found[example.record][word] = scores
        return found

    def score(self, records: Sequence[Record], predictions: Sequence[Any]) -> dict[str, float]:
        """Entity-level micro F1, precision and recall, strict IOB2."""
        from seqeval.metrics.v1 import precision_recall_fscore_support
        from seqeval.scheme import IOB2

        gold = [list(record["tags"]) for record in records]
        precision, recall, f1, _ = precision_recall_fscore_support(
            gold, list(predictions), average="micro", scheme=IOB2, zero_division=0
        )
        return {"f1": float(f1), "precision": float(precision), "recall": float(recall)}

    def _greedy(self, scores: np.ndarray) -> list[str]:
        return begun([self.tags[choice] for choice in scores.argmax(-1)])

    def _viterbi(self, scores: np.ndarray) -> list[str]:
        """The tag sequence of the highest total log-probability in which every `I-` continues its entity."""
        log_p = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        follows = np.array([[b[0] != "I" or a[1:] == b[1:] for b in self.tags] for a in self.tags])
        allowed = np.where(follows, 0.0, -np.inf)
        best = np.where([tag[0] != "I" for tag in self.tags], log_p[0], -np.inf)
        back = np.zeros(scores.shape, dtype=np.int64)
        for position in range(1, len(scores)):
            paths = best[:, None] + allowed
            back[position] = paths.argmax(0)
            best = paths.max(0) + log_p[position]
        path = [int(best.argmax())]
        for position in range(len(scores) - 1, 0, -1):
            path.append(int(back[position, path[-1]]))
        return [self.tags[tag] for tag in reversed(path)]

    def _hint(self, tag: Any) -> str:
        if isinstance(tag, str) and tag[:2] in ("S-", "E-", "U-", "L-") and tag[2:] in self.labels:
            return '; the tags look like BIOES: add scheme = "BIOES" to its [data] table'
        return hint(tag[2:], self.labels) if isinstance(tag, str) and tag[1:2] == "-" else ""

    def _target(self, record: Record, words: Sequence[int | None]) -> Target:
        if "tags" not in record:
            return {}
        return {"tags": [IGNORE if word is None else self.tags.index(record["tags"][word]) for word in words]}


def _placed(record: Record) -> tuple[str, list[tuple[int, int]]]:
    """A text, and where in it each of the record's words begins and ends."""
    tokens, text = record["tokens"], record.get("text")
    places, end = list[tuple[int, int]](), 0
    if isinstance(text, str):
        for token in tokens:
            if (begin := text.find(token, end)) < 0:
                break
            end = begin + len(token)
            places.append((begin, end))
        if len(places) == len(tokens):
            return text, places
    ends = np.cumsum([len(token) + 1 for token in tokens]).tolist()
    return " ".join(tokens), [(end - 1 - len(token), end - 1) for token, end in zip(tokens, ends, strict=True)]


def _folded(rows: np.ndarray, known: Sequence[bool]) -> np.ndarray:
    """Logits [sub-tokens, tags] in which the probability of unknown tags is added to that of `O`."""
    import torch  # here: a coordinator, which decodes nothing, loads none

    from shared.tasks.heads.partial import fold_unknown

    return fold_unknown(torch.from_numpy(rows)[None], torch.tensor([known]))[0].numpy()


def _entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Type, first word and the one after the last of every entity in legal BIO tags."""
    begins = [position for position, tag in enumerate(tags) if tag[0] == "B"]
    ends = [next((i for i in range(b + 1, len(tags)) if tags[i][0] != "I"), len(tags)) for b in begins]
    return {(tags[begin][2:], begin, end) for begin, end in zip(begins, ends, strict=True)}


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
