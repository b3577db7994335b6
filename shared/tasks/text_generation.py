"""Text generation: writing a text for a text, such as an abstractive summary, a translation or a reply.

The backbone reads the source, a small transformer decoder writes, in the manner of BertSumAbs (Liu and Lapata 2019).
What is written is what the backbone's tokenizer can say: an uncased BERT writes lower case and sets punctuation apart.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

import numpy as np
from pydantic import Field

from shared.tasks import rouge
from shared.tasks.base import Card, Example, LabelSmoothing, Record, Spec, Task, require_text
from shared.tasks.layers import Layers, Norm, Offsets, transformer
from shared.tasks.tally import MeanTally

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROUGE = ("rouge1", "rouge2", "rougeL")
PUNCTUATION = re.compile(r"([^\w\s]|_)")


class TextGenerationSpec(Spec):
    """`[tasks.NAME]` of a text generation."""

    type: Literal["text-generation"]
    layers: Annotated[int, Field(ge=1, le=12)] = 2
    """Layers of the decoder; each has 12 hidden^2 weights, which is 3.5 MB in float16 for 384 and 14 MB for 768."""
    max_target_tokens: Annotated[int, Field(ge=2, le=512)] = 64
    """Most sub-tokens of a text that is written, its end included; training reads no more of a longer target."""
    beams: Annotated[int, Field(ge=1, le=64)] = 4
    """Hypotheses kept while writing; 1 is greedy search."""
    length_penalty: Annotated[float, Field(ge=0, le=10)] = 1.0
    """Alpha of Wu et al. 2016: 0 prefers short texts, more prefers longer ones; BertSumAbs uses 0.6 to 1."""
    label_smoothing: LabelSmoothing = 0.0
    """Share of the target that is spread over the vocabulary in training."""
    metric: Literal["rougeL", "chrf", "bleu"] = "rougeL"
    """The score that counts: usually rougeL for summaries, chrf or bleu for translations."""


@final
class TextGeneration(Task):
    """A source text, and the text to write for it."""

    card = Card(
        summary="a text for a text: its summary in new words, its translation, a reply",
        record='{"source", "target"}',
        head="transformer decoder over the states; frozen word embeddings in and out, own output bias",
        loss="cross-entropy given the target so far, mean over the target's sub-tokens; label smoothing",
        metrics="rougeL, or chrf, or bleu; rouge1, rouge2",
        source="Liu and Lapata 2019, section 4; Vaswani et al. 2017; Wu et al. 2016 (beam search)",
    )
    targets = ("target",)
    written = ("source", "target")

    def __init__(self, name: str, spec: TextGenerationSpec) -> None:
        self.name = name
        self.metric: str = spec.metric
        self.spec = spec
        if spec.metric == "rougeL":  # chrF and BLEU are of the corpus
            self.tally = MeanTally("rougeL", lambda record, found: [_rouge(record, found)["rougeL"]])

    def check_input(self, record: Record) -> None:
        """Raise ValueError unless the source is text."""
        require_text(record, "source")

    def check_target(self, record: Record) -> None:
        """Raise ValueError unless the target is text."""
        require_text(record, "target")

    def texts_of(self, record: Record) -> list[str]:
        """The source."""
        return [record["source"]]

    def encode(self, records: Sequence[Record], tokenizer: "PreTrainedTokenizerFast", max_length: int) -> list[Example]:
        """One example per record; the source is cut at `max_length`, the target at `max_target_tokens`."""
        if not records:
            return []
        sources = tokenizer([r["source"] for r in records], truncation=True, max_length=max_length)["input_ids"]
        known = [i for i, record in enumerate(records) if "target" in record]
        texts = [records[i]["target"] for i in known]
        written = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if known else []
        end = tokenizer.sep_token_id
        truths = {i: [*ids, end][: self.spec.max_target_tokens] for i, ids in zip(known, written, strict=True)}
        return [
            Example(
                self.name,
                index,
                ids,
                [0] * len(ids),
                {"truth": truths[index]} if index in truths else {},
                {"tokenizer": tokenizer},
                {"given": [tokenizer.cls_token_id, *truths.get(index, [])[:-1]], "end": end},
            )
            for index, ids in enumerate(sources)
        ]

    def layers(self, hidden: int, vocabulary: int) -> Layers:
        """A transformer between two norms, and the output's biases."""
        found: dict[str, Any] = {
            "embedding_norm": Norm(hidden),
            "norm": Norm(hidden),
            "output.bias": Offsets(vocabulary),
        }
        for number in range(self.spec.layers):
            found |= transformer(f"layers.{number}", hidden, {"back_norm": "back.", "across_norm": "across."})
        return found

    def from_text(self, text: str, second: str | None = None) -> Record:
        """A record of the source."""
        return {"source": text}

    def predict(self, examples: Sequence[Example], logits: Sequence[np.ndarray]) -> dict[int, Any]:
        """The text that the head wrote, per record."""
        return {example.record: _text(example, row) for example, row in zip(examples, logits, strict=True)}

    def answer(
        self, records: Sequence[Record], examples: Sequence[Example], logits: Sequence[np.ndarray]
    ) -> dict[int, Any]:
        """`generated_text`."""
        return {record: {"generated_text": text} for record, text in self.predict(examples, logits).items()}

    def score(self, records: Sequence[Record], predictions: Sequence[Any]) -> dict[str, float]:
        """Mean ROUGE-1, -2 and -L F1 by rouge-score; chrF and BLEU of the corpus by sacrebleu, over 100.

        chrF and BLEU are of lower-case texts with punctuation set apart on both sides, because an uncased tokenizer
        knows neither case nor spacing. BLEU has 4-grams: shorter texts alone score 0.
        """
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF

        golds = [record["target"] for record in records]
        shares = [_rouge(record, found) for record, found in zip(records, predictions, strict=True)]
        found, gold = [_apart(text) for text in predictions], [_apart(text) for text in golds]
        corpus = {"chrf": CHRF(lowercase=True), "bleu": BLEU(lowercase=True)}
        means = {name: float(np.mean([share[name] for share in shares])) for name in ROUGE}
        # sacrebleu may say 100.00000000000004
        return means | {name: min(1.0, by.corpus_score(found, [gold]).score / 100) for name, by in corpus.items()}


def _rouge(record: Record, found: str) -> dict[str, float]:
    return rouge.f1([record["target"]], [found], ROUGE)


def _text(example: Example, row: np.ndarray) -> str:
    ids = row.astype(int).tolist()
    end = example.inputs["end"]
    text: str = example.decoding["tokenizer"].decode(
        ids[: ids.index(end)] if end in ids else ids, skip_special_tokens=True, clean_up_tokenization_spaces=True
    )
    return text


def _apart(text: str) -> str:
    return PUNCTUATION.sub(r" \1 ", text)
