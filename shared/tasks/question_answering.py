"""Extractive question answering in the manner of SQuAD 2.0: a span of the context, or no answer.

Input: [CLS] question [SEP] context [SEP]; a long context is read in overlapping windows. The head gives each sub-token
a start and an end score; position 0 ([CLS]) stands for "no answer". Scores follow the rules of the official SQuAD 2.0
evaluation.
"""

import collections
import math
import re
import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, final

import numpy as np
from pydantic import Field

from shared.tasks.base import Card, Example, Record, Spec, Target, Task, require_text, shown
from shared.tasks.labels import softmax
from shared.tasks.layers import Layers, Linear
from shared.tasks.tally import DEVIATIONS, WRONG, Sums, ratio

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FORM = '[{"text": "ten mg", "start": 5}]'
"""How answers stand in a record."""
SPECIAL = 3
"""[CLS] and the two [SEP] of an input."""


class QuestionAnsweringSpec(Spec):
    """`[tasks.NAME]` of a question answering."""

    type: Literal["question-answering"]
    doc_stride: Annotated[int, Field(ge=1)] = 64
    """Sub-tokens that neighbouring windows of a long context share, but at most half of what the context gets.

    An answer of at most one sub-token more stands whole in some window; a longer one may be cut by all of them.
    """
    max_answer_tokens: Annotated[int, Field(ge=1)] = 30
    """Longest answer that is predicted, in sub-tokens."""
    null_threshold: float = 0.0
    """Answer nothing where the no-answer score exceeds the best span's by more than this.

    Institutions with validation records tune it on them, as the official evaluation does, before they score.
    """


class AnswersTally:
    """Of questions, with and without an answer."""

    def count(self, record: Record, prediction: Any) -> Sums:
        """F1 and what it lacks of 1, with an answer and without one, and exact match: [5], times sqrt(1/2)."""
        counts, overlap = np.zeros(5), _best_f1(record, prediction)
        first = 0 if record["answers"] else 2
        counts[first : first + 2] = overlap, 1 - overlap
        counts[4] = _is_exact(record, prediction)
        return WRONG * counts

    def scores(self, sums: Sums, deviation: float = 0.0) -> dict[str, float]:
        """As `QuestionAnswering.score`, over records with or without an answer where there are such."""
        counts = np.maximum(sums, 0.0)
        (answered, lacked), (silent, spoke) = counts[:4].reshape(2, 2)
        everything = counts[:4].sum()
        scores = {"f1": ratio(answered + silent, everything), "exact_match": ratio(counts[4], everything)}
        for name, part, rest in (("has_answer_f1", answered, lacked), ("no_answer_f1", silent, spoke)):
            if part + rest > DEVIATIONS * math.sqrt(2) * deviation:
                scores[name] = ratio(part, part + rest)
        return scores


@final
class QuestionAnswering(Task):
    """A question, a context, and the answer's place in it."""

    card = Card(
        summary="where in a text a question is answered, if it is",
        record='{"context", "question", "answers": [{"text", "start"}]}',
        head="dropout and linear to a start and an end score per sub-token",
        loss="mean of the start's and the end's cross-entropy",
        metrics="f1, exact_match, has_answer_f1, no_answer_f1",
        source="Rajpurkar et al. 2018; Devlin et al. 2019, section 4.3",
    )

    tunable = ("null_threshold",)
    lists = ("answers",)
    written = ("context", "question")
    places: ClassVar[Mapping[str, str]] = {"answers": "context"}
    targets = ("answers",)

    def __init__(self, name: str, spec: QuestionAnsweringSpec) -> None:
        self.name = name
        self.metric = "f1"
        self.tally = AnswersTally()
        self.spec = spec

    def check_input(self, record: Record) -> None:
        """Raise ValueError unless there is a question and a context."""
        require_text(record, "context")
        require_text(record, "question")

    def check_target(self, record: Record) -> None:
        """Raise ValueError unless each answer stands where it says."""
        context, answers = record["context"], record.get("answers")
        if not isinstance(answers, list) or not all(isinstance(answer, Mapping) for answer in answers):
            squad = isinstance(answers, Mapping) and "answer_start" in answers
            hint = "; that is SQuAD's own form: make one object of each answer, " + FORM if squad else ""
            raise ValueError(f"expected a list of answers in 'answers', but {shown(answers)} came{hint}")
        for answer in answers:
            text, start = require_text(answer, "text"), answer.get("start")
            if not isinstance(start, int) or isinstance(start, bool) or start < 0:
                hint = f"; rename 'answer_start' to 'start', as in {FORM}" if "answer_start" in answer else ""
                raise ValueError(f"expected a character position in 'start', but {shown(start)} came{hint}")
            there = context[start : start + len(text)]
            if there != text:
                raise ValueError(
                    f"expected answer {shown(text, 30)} at character {start} of the context, "
                    f"but {shown(there, 30)} stands there"
                )

    def texts_of(self, record: Record) -> list[str]:
        """The question and the context."""
        return [record["question"], record["context"]]

    def encode(self, records: Sequence[Record], tokenizer: "PreTrainedTokenizerFast", max_length: int) -> list[Example]:
        """One example per window of a record's context; a longer question is cut to leave the context half of the room.

        Windows are cut here because the tokenizer's stride is one for the whole batch: it panics where a single long
        question leaves less room than that.
        """
        if not records:
            return []
        questions = tokenizer([r["question"] for r in records], add_special_tokens=False, verbose=False)["input_ids"]
        contexts = tokenizer(
            [r["context"] for r in records], add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        examples = []
        for index, record in enumerate(records):
            question = questions[index][: (max_length - SPECIAL) // 2]
            context, places = contexts["input_ids"][index], contexts["offset_mapping"][index]
            answer = _answer(record, places)
            first = len(question) + 2
            for start, end in _windows(len(context), max_length - SPECIAL - len(question), self.spec.doc_stride):
                examples.append(
                    Example(
                        self.name,
                        index,
                        [cls, *question, sep, *context[start:end], sep],
                        [0] * first + [1] * (end - start + 1),
                        _target(record, answer, (start, end), first),
                        {"first": first, "places": places[start:end], "context": record["context"]},
                    )
                )
        return examples

    def layers(self, hidden: int, vocabulary: int) -> Layers:
        """One."""
        return {"linear": Linear(hidden, 2, bias=False)}

    def from_text(self, text: str, second: str | None = None) -> Record:
        """A record of the context and the question."""
        if not second:
            raise ValueError("expected a question beside the text, but none came; add --second")
        return {"context": text, "question": second}

    def predict(self, examples: Sequence[Example], logits: Sequence[np.ndarray]) -> dict[int, Any]:
        """The answer's text per record, over all its windows; "" where no answer is likelier."""
        found = self._answers(examples, logits)
        return {record: "" if margin > self.spec.null_threshold else text for record, (margin, text) in found.items()}

    def answer(
        self, records: Sequence[Record], examples: Sequence[Example], logits: Sequence[np.ndarray]
    ) -> dict[int, Any]:
        """`answer`, its `start` and `end` in the context, and `score`; no answer is "" from 0 to 0.

        `score` is the probability of the first place times that of the last, in the window that the answer is of.
        """
        margins, found = self._answers(examples, logits), dict[int, dict[str, Any]]()
        best: dict[int, float] = {}
        for example, scores in zip(examples, logits, strict=True):
            record, chances = example.record, softmax(scores.T)
            score, first, last = self._best_places(example, scores)
            if margins[record][0] > self.spec.null_threshold:
                one, sure = -float(scores[0].sum()), chances[:, 0].prod()
                begin = end = 0
            else:
                one, sure = score, chances[0, first] * chances[1, last] if last else 0.0
                places = example.decoding["places"]
                begin, end = (places[first - _first(example)][0], places[last - _first(example)][1]) if last else (0, 0)
            if record not in best or one > best[record]:
                text = example.decoding["context"][begin:end]
                best[record] = one
                found[record] = {"score": float(sure), "start": begin, "end": end, "answer": text}
        return found

    def _answers(self, examples: Sequence[Example], logits: Sequence[np.ndarray]) -> dict[int, tuple[float, str]]:
        """Per record, by how much no answer scores above the best span, and that span."""
        null: dict[int, float] = {}
        best: dict[int, tuple[float, str]] = {}
        for example, scores in zip(examples, logits, strict=True):
            record = example.record
            null[record] = min(null.get(record, np.inf), float(scores[0].sum()))
            score, text = self._best_span(example, scores)
            if score > best.get(record, (-np.inf, ""))[0]:
                best[record] = (score, text)
        return {
            record: (lowest - best[record][0], best[record][1]) if record in best else (np.inf, "")
            for record, lowest in null.items()
        }

    def calibrate(
        self, records: Sequence[Record], examples: Sequence[Example], logits: Sequence[np.ndarray]
    ) -> dict[str, float]:
        """The `null_threshold` with the highest F1: between two neighbouring score differences, or outside them all."""
        found = self._answers(examples, logits)
        order = sorted(found, key=lambda record: found[record][0])
        spans = np.array([_best_f1(records[record], found[record][1]) for record in order])
        empty = np.array([_best_f1(records[record], "") for record in order])
        margins = np.array([found[record][0] for record in order])
        # With the threshold after position i, the records up to i get their spans, and those behind it no answer.
        totals = np.concatenate([[0.0], np.cumsum(spans)]) + np.concatenate([np.cumsum(empty[::-1])[::-1], [0.0]])
        edges = np.concatenate([[margins[0] - 2.0], margins, [margins[-1] + 2.0]])
        thresholds = (edges[:-1] + edges[1:]) / 2
        allowed = np.isfinite(thresholds) & np.concatenate([[True], margins[:-1] < margins[1:], [True]])
        best = totals[allowed].max()
        choices = thresholds[allowed & np.isclose(totals, best)]
        return {"null_threshold": float(choices[np.abs(choices).argmin()])}

    def calibrated(self, settings: Mapping[str, float]) -> "QuestionAnswering":
        """The task with another `null_threshold`."""
        return QuestionAnswering(self.name, self.spec.model_copy(update=dict(settings)))

    def score(self, records: Sequence[Record], predictions: Sequence[Any]) -> dict[str, float]:
        """Exact match and F1, and F1 over the records with and without an answer where there are such."""
        exact, f1 = [], []
        for record, prediction in zip(records, predictions, strict=True):
            exact.append(_is_exact(record, prediction))
            f1.append(_best_f1(record, prediction))
        scores = {"f1": float(np.mean(f1)), "exact_match": float(np.mean(exact))}
        for name, kept in (("has_answer_f1", True), ("no_answer_f1", False)):
            part = [value for value, record in zip(f1, records, strict=True) if bool(record["answers"]) == kept]
            if part:
                scores[name] = float(np.mean(part))
        return scores

    def _best_span(self, example: Example, scores: np.ndarray) -> tuple[float, str]:
        """Score and text of the best span."""
        best, first, last = self._best_places(example, scores)
        if not last:
            return best, ""
        places, shift = example.decoding["places"], _first(example)
        return best, example.decoding["context"][places[first - shift][0] : places[last - shift][1]]

    def _best_places(self, example: Example, scores: np.ndarray) -> tuple[float, int, int]:
        """Score, first and last sub-token of the best span among all of allowed length inside the context.

        Minus infinity and 0, 0 if there is none.
        """
        first, places = _first(example), example.decoding["places"]
        starts, ends = scores[first : first + len(places)].T
        best, begin, end = -np.inf, 0, 0
        for longer in range(min(self.spec.max_answer_tokens, len(places))):
            sums = starts[: len(places) - longer] + ends[longer:]
            start = int(sums.argmax())
            if sums[start] > best:
                best, begin, end = float(sums[start]), first + start, first + start + longer
        return best, begin, end


def _first(example: Example) -> int:
    """Where the context begins in a row."""
    return int(example.decoding["first"])


def _windows(length: int, room: int, overlap: int) -> list[tuple[int, int]]:
    """Cut `length` sub-tokens into runs of at most `room`, neighbours sharing `overlap`, or half of `room` if less."""
    overlap = min(overlap, room // 2)
    starts = range(0, max(1, length - overlap), room - overlap)
    return [(start, min(start + room, length)) for start in starts]


def _answer(record: Record, places: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """First and last sub-token of the first answer; None if there is none."""
    if not record.get("answers"):
        return None
    answer = record["answers"][0]
    begin, stop = answer["start"], answer["start"] + len(answer["text"])
    inside = [i for i, (left, right) in enumerate(places) if left < stop and begin < right]
    return (inside[0], inside[-1]) if inside else None


def _target(record: Record, answer: tuple[int, int] | None, window: tuple[int, int], first: int) -> Target:
    """The answer's positions in a window whose context begins at `first`; (0, 0) if it is not wholly inside."""
    if "answers" not in record:
        return {}
    start, end = window
    if answer is None or answer[0] < start or answer[1] >= end:
        return {"start": 0, "end": 0}
    return {"start": answer[0] - start + first, "end": answer[1] - start + first}


def _golds(record: Record) -> list[str]:
    return [answer["text"] for answer in record["answers"] if _normalise(answer["text"])] or [""]


def _best_f1(record: Record, prediction: str) -> float:
    return max(_f1(gold, prediction) for gold in _golds(record))


def _is_exact(record: Record, prediction: str) -> float:
    return max(float(_normalise(gold) == _normalise(prediction)) for gold in _golds(record))


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
