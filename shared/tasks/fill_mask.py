"""Masked language modelling: which words stood at the masked places of a text.

Whole words are masked: of their sub-tokens 80 % become [MASK], 10 % some other sub-token, 10 % stay. Evaluation masks
a text always alike, training differently in every epoch. In a text with [MASK] in it these places alone are asked for.
A text longer than the model's input is cut into windows between words, so that nothing is left out.
"""

import dataclasses
import itertools
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

import numpy as np
from pydantic import Field

from shared.tasks.base import Card, Example, Record, Spec, Task, require_text
from shared.tasks.layers import Layers, Linear, Norm, Offsets
from shared.tasks.tally import MeanTally

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MASK = "[MASK]"
"""How a place to fill is written in a text."""
SHOWN_AS_MASK, SHOWN_AS_OTHER = 0.8, 0.1
"""Shares of the masked sub-tokens that become [MASK] and some other sub-token; the rest stay as they are."""
BEST = 5
"""Words that a prediction offers for each place."""
WORST_NLL = 100.0
"""Mean negative log-likelihood at which the perplexity is capped, so that it stays a finite number."""


class FillMaskSpec(Spec):
    """`[tasks.NAME]` of a masked language modelling."""

    type: Literal["fill-mask"]
    mask_rate: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of a text's words that are masked; at least one is."""


@final
class FillMask(Task):
    """A text, some words of which are hidden."""

    card = Card(
        summary="which words stood at the masked places of a text",
        record='{"text"}; to have places filled, write [MASK] there',
        head="linear, GELU and layer norm at the masked places; output tied to the frozen word embeddings, own bias",
        loss="cross-entropy, mean over the masked sub-tokens of a row",
        metrics="accuracy, perplexity (lower is better), both over masked sub-tokens",
        source="Devlin et al. 2019, section 3.1; whole-word masking as in their later models",
    )
    redraws = True

    written = ("text",)

    def __init__(self, name: str, spec: FillMaskSpec) -> None:
        self.name = name
        self.metric = "accuracy"
        self.tally = MeanTally("accuracy", lambda record, places: [float(_is_right(place)) for place in places])
        self.mask_rate = spec.mask_rate

    def check_input(self, record: Record) -> None:
        """Raise ValueError unless the record has text."""
        require_text(record, "text")

    def check_target(self, record: Record) -> None:
        """Raise ValueError unless the text's words are all known."""
        if MASK in (text := record["text"]):
            raise ValueError(f"expected text whose words are all known, but {MASK} is at character {text.index(MASK)}")

    def texts_of(self, record: Record) -> list[str]:
        """The text."""
        return [record["text"]]

    def encode(self, records: Sequence[Record], tokenizer: "PreTrainedTokenizerFast", max_length: int) -> list[Example]:
        """One example per record, or several windows of whole words; masked by a seed from the window's own text."""
        if not records:
            return []
        encoded = tokenizer([record["text"] for record in records], add_special_tokens=False, verbose=False)
        examples = []
        for index in range(len(records)):
            ids = encoded["input_ids"][index]
            asked = tokenizer.mask_token_id in ids
            for words in _windows(encoded.word_ids(index), max_length - 2):
                window = ids[words[0][0] : words[-1][1]] if words else []
                example = self._example(index, window, words, tokenizer)
                seed = zlib.crc32(np.asarray(window, dtype="<i4").tobytes())
                examples.append(_as_asked(example) if asked else self.redraw(example, np.random.default_rng(seed)))
        return examples

    def layers(self, hidden: int, vocabulary: int) -> Layers:
        """BERT's transform, and the output's biases."""
        return {"linear": Linear(hidden, hidden), "norm": Norm(hidden), "output.bias": Offsets(vocabulary)}

    def from_text(self, text: str, second: str | None = None) -> Record:
        """A record of the text, which has a place to fill."""
        if text.strip() and MASK not in text:
            raise ValueError(f"expected {MASK} in the text, at the place to fill, but there is none")
        return {"text": text}

    def redraw(self, example: Example, rng: np.random.Generator) -> Example:
        """The same window with other words masked; one whose [MASK] are its author's stays as it is."""
        words, tokenizer = example.decoding["words"], example.decoding["tokenizer"]
        if words is None:
            return example
        count = max(1, round(self.mask_rate * len(words)))
        chosen = [words[i] for i in sorted(rng.permutation(len(words))[:count])]
        positions = [position for start, end in chosen for position in range(start, end)]
        ids = list(example.decoding["ids"])
        truth = [ids[position] for position in positions]
        fates, others = rng.random(len(positions)), rng.integers(tokenizer.vocab_size, size=len(positions))
        for position, fate, other in zip(positions, fates, others, strict=True):
            if fate < SHOWN_AS_MASK:
                ids[position] = tokenizer.mask_token_id
            elif fate < SHOWN_AS_MASK + SHOWN_AS_OTHER:
                ids[position] = int(other)
        inputs = {"positions": positions, "truth": truth}
        return dataclasses.replace(example, input_ids=ids, target={"truth": truth}, inputs=inputs)

    def predict(self, examples: Sequence[Example], logits: Sequence[np.ndarray]) -> dict[int, Any]:
        """Per record its masked places in order: the BEST likeliest words, likeliest first, and their probabilities.

        Where the words are known, `truth` and its `log_likelihood` stand beside them. Words are sub-tokens.
        """
        found: dict[int, list[dict[str, Any]]] = {}
        for example, rows in zip(examples, logits, strict=True):
            name = example.decoding["tokenizer"].convert_ids_to_tokens
            places = found.setdefault(example.record, [])
            for row, truth in zip(rows[: len(example.inputs["truth"])], example.inputs["truth"], strict=True):
                words = name(row[1 + BEST :].astype(int).tolist())
                place = {"words": dict(zip(words, np.exp(row[1 : 1 + BEST]).tolist(), strict=True))}
                places.append(
                    place | ({"truth": name(truth), "log_likelihood": float(row[0])} if example.target else {})
                )
        return found

    def answer(
        self, records: Sequence[Record], examples: Sequence[Example], logits: Sequence[np.ndarray]
    ) -> dict[int, Any]:
        """Of each place the likeliest words, as `token_str` with `score`; of a single place no list in a list."""
        found = {}
        for record, places in self.predict(examples, logits).items():
            words = [[{"token_str": word, "score": p} for word, p in place["words"].items()] for place in places]
            found[record] = words[0] if len(words) == 1 else words
        return found

    def score(self, records: Sequence[Record], predictions: Sequence[Any]) -> dict[str, float]:
        """Accuracy, and perplexity: the exponential of the mean negative log-likelihood, from 1; lower is better.

        What was masked is in the predictions, because the masks are drawn when a record is encoded. Texts of which
        the tokenizer left nothing score 0, and have no perplexity.
        """
        places = [place for prediction in predictions for place in prediction]
        if not places:
            return {"accuracy": 0.0}
        nll = -float(np.mean([place["log_likelihood"] for place in places]))
        return {
            "accuracy": float(np.mean([_is_right(place) for place in places])),
            "perplexity": float(np.exp(min(nll, WORST_NLL))),
        }

    def _example(
        self, record: int, window: list[int], words: list[tuple[int, int]], tokenizer: "PreTrainedTokenizerFast"
    ) -> Example:
        """A window as it is, not masked yet; its words' places count from [CLS]."""
        ids = [tokenizer.cls_token_id, *window, tokenizer.sep_token_id]
        shift = 1 - words[0][0] if words else 0
        decoding = {"tokenizer": tokenizer, "ids": ids, "words": [(a + shift, b + shift) for a, b in words]}
        return Example(self.name, record, ids, [0] * len(ids), {}, decoding)


def _is_right(place: Mapping[str, Any]) -> bool:
    return bool(next(iter(place["words"])) == place["truth"])


def _as_asked(example: Example) -> Example:
    """The example whose places to fill are the [MASK] that its text holds; what is true there nobody knows."""
    mask = example.decoding["tokenizer"].mask_token_id
    positions = [position for position, id in enumerate(example.input_ids) if id == mask]
    inputs = {"positions": positions, "truth": [0] * len(positions)}
    return dataclasses.replace(example, inputs=inputs, decoding={**example.decoding, "words": None})


def _windows(word_ids: Sequence[int | None], room: int) -> list[list[tuple[int, int]]]:
    """Words as (start, end) of their sub-tokens, in runs of at most `room` sub-tokens; a longer word is cut."""
    windows: list[list[tuple[int, int]]] = [[]]
    begin = 0
    for _, pieces in itertools.groupby(word_ids):
        end = begin + len(list(pieces))
        for start in range(begin, end, room):
            word = (start, min(start + room, end))
            if windows[-1] and word[1] - windows[-1][0][0] > room:
                windows.append([])
            windows[-1].append(word)
        begin = end
    return windows
