"""Canaries: records that are made up to be found again, each its own owner, each in or out by a fair coin."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedTokenizerFast

from shared.errors import ConfigError
from shared.tasks import Example, Record, Task
from shared.tasks.base import Card, Target
from shared.tasks.fill_mask import FillMask
from shared.tasks.heads import Head, Tensors
from shared.tasks.layers import Layers
from shared.tasks.text_classification import TextClassification

DIRAC = "audit_canaries"
"""Name of the task that gradient canaries have to themselves."""
OWNER = "audit-canary"
"""Before the number of a canary, its owner."""
RECORDS_PER_OWNER = 2
"""Records of each gradient canary, so that clipping records instead of owners would show."""
STEEPNESS = 1e4
"""Gradient of one such record; far above any clipping bound."""
WORDS = 8
"""Random words of a text canary."""
SECRETS = (
    ("The patient's number is {}.", "{:03d}-{:02d}-{:04d}", (1000, 100, 10_000)),
    ("Please call me back on {} today.", "555 {:03d} {:04d}", (1000, 10_000)),
    ("The account is {} at our branch.", "{:04d} {:04d} {:04d}", (10_000, 10_000, 10_000)),
)
"""Sentences that hold a number, how the number is written, and how many values each of its parts has; all synthetic."""


@dataclass(frozen=True)
class Secret:
    """A made-up number in a sentence, the label that goes with it if the task has labels, and its rivals."""

    record: Record
    alternatives: tuple[Record, ...]
    """The same sentence and label with other random numbers."""


@final
class Dirac(Task):
    """A task whose record `i` has, whatever the model, the gradient -STEEPNESS in coordinate `i` of its head alone.

    Through it canaries with a gradient of their own (Dirac canaries; Nasr et al. 2023, arXiv 2302.07956) take exactly
    the way of real records: drawn, summed by owner, clipped, noised.
    """

    card = Card("a canary", '{"canary"}', "linear, no bias", "linear", "none", "Nasr et al. 2023")
    metric = "none"

    def __init__(self, canaries: int) -> None:
        self.name = DIRAC
        self.canaries = canaries

    def check_input(self, record: Record) -> None:
        """Raise ValueError unless the record is a canary's number."""
        if not 0 <= record["canary"] < self.canaries:
            raise ValueError(f"expected a canary below {self.canaries}, but {record['canary']} came")

    def layers(self, hidden: int, vocabulary: int) -> Layers:
        """None that a federation agrees on: `DiracHead` is put beside the others."""
        return {}

    def from_text(self, text: str, second: str | None = None) -> Record:
        """There is none."""
        raise ValueError("expected the number of a canary; it has no text")

    def predict(self, examples: Sequence[Example], logits: Sequence[np.ndarray]) -> dict[int, Any]:
        """Nothing: canaries are trained on only."""
        return {example.record: None for example in examples}

    def score(self, records: Sequence[Record], predictions: Sequence[Any]) -> dict[str, float]:
        """No metric."""
        return {}

    def encode(self, records: Sequence[Record], tokenizer: PreTrainedTokenizerFast, max_length: int) -> list[Example]:
        """One empty text per record."""
        ids = [int(tokenizer.cls_token_id), int(tokenizer.sep_token_id)]
        return [
            Example(DIRAC, row, ids, [0, 0], {"canary": record["canary"]}, inputs={"canary": record["canary"]})
            for row, record in enumerate(records)
        ]


@final
class DiracHead(Head):
    """One weight per canary, zero at first."""

    def __init__(self, canaries: int) -> None:
        super().__init__()
        self.canaries = canaries
        self.linear = nn.Linear(canaries, 1, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, states: torch.Tensor, mask: torch.Tensor, inputs: Tensors) -> torch.Tensor:
        """The weight of each row's canary: [rows, 1]."""
        logits: torch.Tensor = self.linear(inputs["canaries"])
        return logits

    def inputs(self, examples: Sequence[Example], length: int) -> Tensors:
        """`canaries`: [rows, canaries] of zeros and a single one."""
        number = torch.tensor([example.inputs["canary"] for example in examples])
        return {"canaries": nn.functional.one_hot(number, self.canaries).float()}

    def collate(self, targets: Sequence[Target], length: int) -> Tensors:
        """`canary`: [rows], so that rows count as labelled."""
        return {"canary": torch.tensor([target["canary"] for target in targets])}

    def loss(self, logits: torch.Tensor, targets: Tensors) -> torch.Tensor:
        """Steep and linear in the canary's own coordinate: [rows]."""
        return -STEEPNESS * logits[:, 0]


def draw_texts(
    task: Task,
    count: int,
    rng: np.random.Generator,
    *,
    labels: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
) -> tuple[Record, ...]:
    """Texts of rare random words with random labels.

    Args:
        task: A text classification.
        count: How many.
        rng: Draws everything.
        labels: To draw from.
        tokenizer: Its vocabulary has the words.

    Raises:
        ConfigError: The task is no text classification.
    """
    if not isinstance(task, TextClassification):
        raise ConfigError(
            f"Expected a text classification for text canaries, but task {task.name} is {type(task).__name__}; name "
            "another with --task, or plant --kind gradient."
        )
    words = _rare_words(tokenizer)
    return tuple({"text": " ".join(rng.choice(words, WORDS)), **_label(task, labels, rng)} for _ in range(count))


def draw_secrets(
    task: Task, count: int, rng: np.random.Generator, *, labels: Sequence[str], alternatives: int
) -> tuple[Secret, ...]:
    """Synthetic personal numbers in sentences, with random labels where the task has labels.

    Args:
        task: A text classification, or masked language modelling.
        count: How many.
        rng: Draws everything.
        labels: To draw from, for a text classification.
        alternatives: Random numbers that each is compared with.

    Raises:
        ConfigError: The task is of another type.
    """
    if not isinstance(task, TextClassification | FillMask):
        raise ConfigError(
            f"Expected a text classification or fill-mask for planted secrets, but task {task.name} is "
            f"{type(task).__name__}; name another with --task, or plant --kind gradient."
        )
    return tuple(_secret(task, labels, alternatives, rng) for _ in range(count))


def ask_for_digits(examples: Sequence[Example]) -> list[Example]:
    """The examples, in those of a fill-mask the sub-tokens with a digit masked, and no others."""
    return [_masked_digits(example) if "truth" in example.target else example for example in examples]


def toss(count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which canaries are in: a fair coin each."""
    return rng.random(count) < 0.5


def _secret(task: Task, labels: Sequence[str], alternatives: int, rng: np.random.Generator) -> Secret:
    sentence, pattern, parts = SECRETS[rng.integers(len(SECRETS))]
    label = _label(task, labels, rng) if isinstance(task, TextClassification) else {}
    numbers: dict[str, None] = {}
    while len(numbers) <= alternatives:
        numbers[pattern.format(*(int(rng.integers(values)) for values in parts))] = None
    first, *others = ({"text": sentence.format(number), **label} for number in numbers)
    return Secret(first, tuple(others))


def _label(task: TextClassification, labels: Sequence[str], rng: np.random.Generator) -> dict[str, Any]:
    label = str(rng.choice(labels))
    return {"labels": [label]} if task.multi_label else {"label": label}


def _rare_words(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Whole lower-case words of the vocabulary's rarer half: BERT's vocabularies are sorted by frequency."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    rarer = [word for word, _ in vocabulary[len(vocabulary) // 2 :]]
    return [word for word in rarer if len(word) > 4 and set(word) <= set(string.ascii_lowercase)]


def _masked_digits(example: Example) -> Example:
    tokenizer, ids = example.decoding["tokenizer"], list(example.decoding["ids"])
    tokens = tokenizer.convert_ids_to_tokens(ids)
    positions = [i for i, token in enumerate(tokens) if any(character.isdigit() for character in token)]
    truth = [ids[i] for i in positions]
    for i in positions:
        ids[i] = tokenizer.mask_token_id
    inputs = {"positions": positions, "truth": truth}
    return Example(
        example.task, example.record, ids, example.token_type_ids, {"truth": truth}, example.decoding, inputs
    )
