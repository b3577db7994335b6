"""What a task is: how a record becomes model input, and how what the model infers is decoded and scored.

A task type is one file beside this one, with a pydantic spec (what the federation file says of the task) and a `Task`
(what the code does with it), and one of the same name in `heads`, with what has parameters. Tasks load no torch: the
coordinator needs what they say, and computes nothing. Nothing outside this folder knows a task type by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from shared.errors import listed
from shared.tasks.documents import Document
from shared.tasks.layers import Layers
from shared.tasks.tags import Scheme
from shared.tasks.tally import Tally

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Record = Mapping[str, Any]
Target = Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """One row of model input. A record gives one example, or several when a long context is windowed."""

    task: str
    record: int
    """Index of the record in its dataset; the windows of one record share it."""
    input_ids: Sequence[int]
    token_type_ids: Sequence[int]
    target: Target
    """What the loss needs, as plain numbers; empty where the record has no label."""
    decoding: Mapping[str, Any] = field(default_factory=dict)
    """What `predict` needs to go from sub-tokens back to the record: word positions, character offsets."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """What the head needs beside the encoder's states, as plain numbers: positions of markers or sentences."""
    varies: bool = False
    """Whether the record gives another row whenever it is drawn, so that nothing is remembered of this one."""

    def __len__(self) -> int:
        return len(self.input_ids)


class Spec(BaseModel):
    """Base of what a federation file says of a task: immutable, an unknown key an error, every number finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Factor of the loss of each of the task's rows; it matters where an institution holds several tasks."""

    def crosses_records(self) -> str | None:
        """Why an example may hold text of more than one record, which privacy per owner excludes; None if none does."""
        return None


IGNORE = -100
"""The target of what has none or only pads: a sub-token that carries no tag, a place beyond a row's own."""
Pooling = Literal["mean", "cls"]
"""What stands for the input: the mean of its states (Reimers and Gurevych 2019), or its [CLS] (Devlin et al. 2019)."""
LabelSmoothing = Annotated[float, Field(ge=0, lt=1)]
"""For specs of tasks with a cross-entropy over classes: how much of the target is spread over all of them evenly.

The target of a row becomes (1 - s) * one_hot + s / classes (Szegedy et al. 2016, arXiv 1512.00567, section 7), which is
`label_smoothing` of torch's cross_entropy. Only training sees it.
"""


def unique(values: tuple[str, ...]) -> tuple[str, ...]:
    """Check that labels are distinct and not empty."""
    if len(set(values)) != len(values) or not all(values):
        raise ValueError(f"must be distinct and not empty, not {listed(values)}")
    return values


def require_text(record: Record, field: str) -> str:
    """The non-empty text in a field; ValueError says what came instead."""
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected text in {field!r}, but {shown(value)} came")
    return value


def require_words(record: Record) -> list[str]:
    """The words in 'tokens', at least one; ValueError says what came instead."""
    tokens = record.get("tokens")
    if not isinstance(tokens, list) or not tokens:
        raise ValueError(f"expected a list of words in 'tokens', but {shown(tokens)} came")
    for position, token in enumerate(tokens):
        if not isinstance(token, str) or not token:
            raise ValueError(f"expected a word at token {position}, but {shown(token)} came")
    return tokens


def shown(value: Any, limit: int = 60) -> str:
    """A value for an error message: at most `limit` characters, because it may be private text."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


@dataclass(frozen=True)
class Card:
    """What a task type is, for the people who choose it; `collegium tasks` prints it."""

    summary: str
    """What the task asks of a text, in a clause."""
    record: str
    """A record as the user writes it."""
    head: str
    loss: str
    metrics: str
    """The metrics, the task's own first."""
    source: str
    """The papers that it follows."""


class Task(Protocol):
    """One task of the federation; stateless, so that one object serves training, evaluation and prediction."""

    card: ClassVar[Card]
    name: str
    metric: str
    """Key of the metric, among those of `score`, that stands for the task; higher is better."""
    tunable: ClassVar[tuple[str, ...]] = ()
    """Settings of `predict` that are tuned on validation records."""
    weight: float = 1.0
    """`Spec.weight`; `build_task` sets it."""
    labels: tuple[str, ...] = ()
    """The labels that the federation file names, of the kind that `labels_of` returns; empty for a task without any."""
    tally: Tally | None = None
    """Makes scores of sums over records; None where a record's part depends on others, or the metric is no such sum."""
    free_texts: ClassVar[tuple[str, ...]] = ()
    """Fields of running text that augmentation may reword, because the labels belong to the whole of it."""
    free_words: ClassVar[tuple[str, ...]] = ()
    """Fields that list words which augmentation may replace one for one, because the labels count words."""
    written: ClassVar[tuple[str, ...]] = ()
    """Fields of text, of words or of sentences that the model reads or learns to write, in which names may stand."""
    places: ClassVar[Mapping[str, str]] = {}
    """Fields with `text` and `start` of pieces of another field, by that field."""
    lists: ClassVar[tuple[str, ...]] = ()
    """Fields that hold a list; a CSV cell spells it as JSON."""
    targets: ClassVar[tuple[str, ...]] = ()
    """Fields that hold what is to be learnt; prediction reads none of them."""
    redraws: ClassVar[bool] = False
    """Whether `redraw` does anything."""

    def check(self, record: Record) -> None:
        """Raise ValueError saying what is wrong with a labelled record (the caller adds file and line)."""
        self.check_input(record)
        self.check_target(record)

    def check_input(self, record: Record) -> None:
        """Raise ValueError saying what is wrong with what the model would read of a record, labelled or not."""

    def check_target(self, record: Record) -> None:
        """Raise ValueError saying what is wrong with the labels of a record whose input is right."""
        return None

    def texts_of(self, record: Record) -> list[str]:
        """What a record that `check` accepts gives the model to read, in the order it is read."""
        return []

    def labels_of(self, record: Record) -> list[str]:
        """The labels of a record as they are written, one for each time that it bears one; none if it bears none.

        A label that the federation does not know is returned as well, so that institutions can compare theirs.
        """
        return []

    def encode(self, records: Sequence[Record], tokenizer: "PreTrainedTokenizerFast", max_length: int) -> list[Example]:
        """Turn records into examples of at most `max_length` sub-tokens; one without a label has no target."""
        ...

    def layers(self, hidden: int, vocabulary: int) -> Layers:
        """What the head is made of, over states of `hidden` numbers of a backbone with so many sub-tokens."""
        ...

    def from_text(self, text: str, second: str | None = None) -> Record:
        """The unlabelled record that plain text stands for; ValueError if the task needs more than it got.

        Args:
            text: The text.
            second: What goes with it, for tasks that read two: a question, the other text of a pair.
        """
        ...

    def records_of(self, document: Document) -> list[Record]:
        """The records that an annotated document gives: its text alone, where the task learns nothing that is marked.

        Raises:
            ValueError: What is marked cannot be said in this task's records.
        """
        return [{**document.beside, "text": document.text}]

    def outputs(self) -> Sequence[str | None]:
        """The label that each output row of the head's `linear` layer stands for, None for one that all share.

        Institutions may annotate different labels of a task with such rows; () if the task cannot be shared so.
        """
        return ()

    def relabel(self, record: Record, rename: Mapping[str, str], scheme: Scheme) -> Record:
        """The record with an institution's own label names and tag scheme turned into the federation's.

        Raises ValueError if its tags do not follow the scheme.
        """
        return record

    def redraw(self, example: Example, rng: np.random.Generator) -> Example:
        """The example as training shows it this time; tasks that mask or augment at random override this."""
        return example

    def predict(self, examples: Sequence[Example], logits: Sequence[np.ndarray]) -> dict[int, Any]:
        """Decode what the head inferred, each row cut to its example's length, to one prediction per record index."""
        ...

    def answer(
        self, records: Sequence[Record], examples: Sequence[Example], logits: Sequence[np.ndarray]
    ) -> dict[int, Any]:
        """As `predict`, for whoever asks: with scores, in the form of Hugging Face's pipeline of the same task.

        Args:
            records: What was asked.
            examples: As `encode` made them.
            logits: As `predict`.
        """
        return self.predict(examples, logits)

    def calibrate(
        self, records: Sequence[Record], examples: Sequence[Example], logits: Sequence[np.ndarray]
    ) -> dict[str, float]:
        """The settings of `predict`, among `tunable`, that score best on these validation records."""
        return {}

    def calibrated(self, settings: Mapping[str, float]) -> "Task":
        """The task with these settings of `predict` in the place of the federation file's."""
        return self

    def score(self, records: Sequence[Record], predictions: Sequence[Any]) -> dict[str, float]:
        """All metrics of the task over aligned records and predictions, each in [0, 1] unless it says otherwise."""
        ...
