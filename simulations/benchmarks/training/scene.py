"""What the benchmarks of training learn from: one text classification, and one model for it."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification

from client.data.loading import TaskData
from client.site import Site
from shared.adapter import get_state
from shared.codec import Arrays
from shared.errors import ConfigError
from shared.federation import Federation
from shared.model.backbone import fingerprint, locate, quiet
from shared.model.multitask import MultiTaskModel, build_model
from shared.tasks import Example
from simulations.benchmarks.measured import Asked
from simulations.experiment import Experiment, open_sites
from simulations.samples import SAMPLES

BACKBONE, MAX_LENGTH = "minilm-l6", 96
DATA_SET, DATA_LABELS = "legal_classification", ["Citation", "Evidence", "Finding", "LegalRule", "Other", "Reasoning"]
"""Of the folder of public data sets: sentences of decisions, 1 to 204 words."""
LABELS = ["confidentiality", "termination", "liability", "payment", "governing_law"]
"""Of the clauses of the demonstration's law firm."""
TASK = "texts"


@dataclass(frozen=True)
class Scene:
    """One institution with its records, and the model that it trains."""

    federation: Federation
    model: MultiTaskModel
    initial: Arrays
    """The state that every training starts from."""
    site: Site
    labels: list[str]

    @property
    def data(self) -> dict[str, TaskData]:
        """The records of every split."""
        return {str(split): held for split, held in self.site.data[TASK].items()}

    @property
    def examples(self) -> list[Example]:
        """The encoded training records."""
        return self.site.examples("train")


def open_scene(asked: Asked, records: int, *, tested: int | None = None, **tables: Any) -> Scene:
    """The records and the model.

    Args:
        asked: Says where the texts are.
        records: Most training records.
        tested: Most test records; all if None.
        tables: What the federation has beside its defaults, by table.

    Raises:
        ConfigError: The data set is not in the folder.
    """
    files, labels = _texts(asked.data)
    values: dict[str, Any] = {
        "name": "benchmark",
        "seed": 13,
        "backbone": {"name": BACKBONE, "sha256": fingerprint(locate(BACKBONE)), "max_length": MAX_LENGTH},
        "tasks": {TASK: {"type": "text-classification", "labels": labels}},
        "rounds": {"count": 1, "institutions": ["here"], "quorum": 1},
    }
    for table, changes in tables.items():
        values[table] = values.get(table, {}) | changes
    experiment = Experiment.model_validate(
        {"federation": values, "institutions": {"here": {TASK: files | {"limit": records}}}}
    )
    model = build_model(experiment.federation)
    (site,) = open_sites(experiment, model).values()
    return Scene(experiment.federation, model, get_state(model), site, labels)


def peft_model(scene: Scene, *, dropout: bool = True, attention: str = "sdpa") -> PeftModel:
    """The same backbone for the same labels with the same LoRA, as one makes it of transformers and peft.

    Args:
        scene: Says which.
        dropout: Whether the encoder has the dropout of its own configuration; ours has none.
        attention: `attn_implementation`.
    """
    chances = {} if dropout else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    adapter = scene.federation.adapter
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=adapter.rank,
        lora_alpha=round(adapter.alpha),
        target_modules=list(adapter.target_modules),
        exclude_modules=r".*pooler.*",  # our model has none
    )
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks for a name that transformers will drop
        model = AutoModelForSequenceClassification.from_pretrained(
            locate(BACKBONE), num_labels=len(scene.labels), attn_implementation=attention, **chances
        )
        return get_peft_model(model, config)


def encoded(scene: Scene, split: str) -> list[dict[str, Any]]:
    """The records of a split as such a model reads them, not padded."""
    encode, labels = scene.model.tokenizer, scene.labels
    return [
        {**encode(record["text"], truncation=True, max_length=MAX_LENGTH), "labels": labels.index(record["label"])}
        for record in scene.data[split].records
    ]


def _texts(data: Path | None) -> tuple[dict[str, Path], list[str]]:
    """The files of the splits, and the labels."""
    if data is None:
        return {
            split: SAMPLES / "law_firm" / f"clauses.{split}.jsonl" for split in ("train", "validation", "test")
        }, LABELS
    folder = data / DATA_SET
    if not folder.is_dir():
        raise ConfigError(f"Expected the data set {DATA_SET} in {data}, which has no such folder; see docs/data.md.")
    names = {"train": "train", "validation": "dev", "test": "test"}
    return {split: folder / f"{name}.jsonl.gz" for split, name in names.items()}, DATA_LABELS
