"""How far can one owner move what a private step adds up? If by more than the clip, the noise does not hide the owner.

The clipped sums of two sites, one of which lacks an owner, are compared before any noise, with all secret draws of both
from one key: whatever differs then is the owner's doing. The clip is the unit; 1 is what the accounting allows.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from client.data.augmentation import Augmentation
from client.institution import Data, Institution
from client.opening import build_site
from client.privacy.account import privacy_of
from client.privacy.owners import Private
from client.privacy.randomness import Secret
from client.site import Site
from client.train import trainer
from shared.adapter import get_state, set_state
from shared.federation import Federation
from shared.model.multitask import MultiTaskModel, build_model
from simulations.attacks import Attack, Outcome
from simulations.attacks.stage import tiny_federation, write_tiny_bert

OWNERS = 44
CLIP = 0.01
"""Small, so that every owner is clipped and contributes it whole."""
TOLERANCE = 1e-5
"""What float32 rounds otherwise when other owners pass together."""
TASKS_EACH = 4
"""Most tasks to which an owner brings a record."""
RATE = 1e6
"""Learning rate of the one step: what moves is large beside the parameters, so that float32 represents it exactly."""
PROMISE = "no owner moves a step's sum by more than the clip"
NAMES = ("Anna", "Ben", "Carla", "Dora", "Emil", "Frida", "Gustav", "Hanna", "Ivo", "Jana", "Karl")
TASKS: dict[str, dict[str, Any]] = {
    "clauses": {"type": "text-classification", "labels": ["payment", "liability"], "class_weights": [1.0, 0.5]},
    "pairs": {"type": "text-pair-classification", "labels": ["yes", "no"]},
    "similar": {"type": "sentence-similarity", "high": 5},
    "relations": {"type": "relation-extraction", "labels": ["none", "treats"], "no_relation": "none"},
    "entities": {"type": "token-classification", "types": ["Drug"]},
    "questions": {"type": "question-answering"},
    "summaries": {"type": "extractive-summarization", "summary_sentences": 1},
    "replies": {"type": "text-generation"},
    "next": {"type": "next-sentence-prediction", "strangers": "document"},
    "words": {"type": "fill-mask"},
}
"""Every task type that [privacy] allows."""
REWORDED = ("clauses", "pairs")
SYNONYMS = {"buyer": ["purchaser", "customer"], "pays": ["settles", "remits"], "days": ["mornings", "nights"]}


def records_of(owner: int) -> dict[str, dict[str, Any]]:
    """What an owner could bring to each task."""
    name, days = NAMES[owner % len(NAMES)], 3 + owner
    text = f"The buyer {name} pays within {days} days. " + "It rained on all of those days. " * (owner % 3)
    words = [name, "takes", "aspirin", "for", str(days), "days"]
    sentences = [f"{name} came late.", f"It rained for {days} days.", "All is well.", "Nobody paid."]
    brought: dict[str, dict[str, Any]] = {
        "clauses": {"text": text, "label": "payment" if owner % 4 else "liability"},
        "pairs": {"text_a": f"Did {name} pay?", "text_b": text, "label": "yes" if owner % 4 else "no"},
        "similar": {"text_a": f"{name} paid.", "text_b": f"{name} pays in {days} days.", "score": owner % 6},
        "relations": {"tokens": words, "head": [2, 3], "tail": [5, 6], "label": "treats" if owner % 3 else "none"},
        "entities": {"tokens": words, "tags": ["O", "O", "B-Drug", "O", "O", "O"]},
        "questions": {"context": text, "question": "Who pays?", "answers": [{"text": name, "start": 10}]},
        "summaries": {"sentences": sentences, "summary": [sentences[1]], "oracle": [1]},
        "replies": {"source": text, "target": f"{name} was asked to pay."},
        "next": {"sentences": sentences},
        "words": {"text": text},
    }
    return {task: {**record, "owner": f"{name} {owner}"} for task, record in brought.items()}


def federation_of(folder: Path, *tasks: str, adapter: Mapping[str, Any] | None = None, **training: Any) -> Federation:
    """One noisy step over all owners, by plain gradient descent."""
    federation = tiny_federation(
        write_tiny_bert(folder),
        ["hospital"],
        tasks=TASKS,
        adapter=adapter or {},
        training={
            "optimizer": "sgd",
            "momentum": 0.0,
            "learning_rate": RATE,
            "schedule": "constant",
            "warmup": 0.0,
            "weight_decay": 0.0,
            "batch_tokens": 1024,
            **training,
        },
        privacy={"noise_multiplier": 1.0, "sampling_rate": 1.0, "clip": CLIP},
        rounds={"weighting": "equal", "count": 1},
    )
    return federation.model_copy(update={"tasks": {name: federation.tasks[name] for name in tasks or TASKS}})


def open_site(folder: Path, federation: Federation, model: MultiTaskModel, owners: Iterable[int]) -> Site:
    """A site that holds these owners' records, and rewords the texts of REWORDED."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for owner in owners:
        records, tasks = records_of(owner), list(federation.tasks)
        for task in {tasks[(owner + more) % len(tasks)] for more in range(TASKS_EACH)}:
            rows.setdefault(task, []).append(records[task])
    (folder / "synonyms.json").write_text(json.dumps(SYNONYMS), encoding="utf-8")
    augmentation = Augmentation(synonyms=folder / "synonyms.json", replace=0.5, drop=0.2, swap=0.2)
    data = {}
    for task, each in rows.items():
        file = folder / f"{task}.jsonl"
        file.write_text("".join(json.dumps(record) + "\n" for record in each), encoding="utf-8")
        reworded = augmentation if task in REWORDED else None
        data[task] = Data(train=file, validation=file, group_by="owner", augmentation=reworded)
    return build_site(Institution(name="hospital", data=data), federation, model)


def clipped_sum(site: Site) -> dict[str, np.ndarray]:
    """What one step adds up of a site's owners, in clips, by array; without noise."""
    assert site.account
    before = get_state(site.model)
    private = Private(privacy_of(site.federation), 0.0, site.account.owners, Secret(bytes(32)))
    training = site.federation.training
    trainer.train(site.model, site.examples("train"), training, seed=1, augment=site.draw_examples, private=private)
    after = get_state(site.model)
    set_state(site.model, before)
    return {name: (before[name] - after[name]) * (private.expected_owners / RATE / CLIP) for name in before}


def moved(folder: Path, federation: Federation, lacking: Iterable[int] = (0, OWNERS // 2)) -> list[float]:
    """For each owner that one site lacks, how far apart the sums are, in clips; the first one moves all places up."""
    model = build_model(federation)
    everybody = clipped_sum(open_site(folder, federation, model, range(OWNERS)))
    found = []
    for owner in lacking:
        fewer = clipped_sum(open_site(folder, federation, model, (each for each in range(OWNERS) if each != owner)))
        gaps = [np.square(everybody[name].astype(np.float64) - fewer[name]).sum() for name in everybody]
        found.append(float(np.sqrt(np.sum(gaps))))
    return found


def shift(*tasks: str, **tables: Any) -> Callable[[Path], Outcome]:
    """The attack on some tasks, or all; an agreement that is refused has moved nothing."""

    def run(folder: Path) -> Outcome:
        try:
            federation = federation_of(folder, *tasks, **tables)
        except ValidationError:
            return Outcome(1, 0, "the agreement is refused")
        moves = moved(folder, federation)
        beyond = sum(move > 1 + TOLERANCE for move in moves)
        return Outcome(
            len(moves), beyond, f"one of {OWNERS} owners moved the sum by at most {max(moves):.6f} clipping norms"
        )

    return run


ATTACKS = (
    Attack("an owner changes which words of others are masked", "a reader", PROMISE, shift("words")),
    Attack("an owner changes how others' texts are reworded", "a reader", PROMISE, shift(*REWORDED)),
    Attack("an owner changes anything else, all task types together", "a reader", PROMISE, shift()),
    Attack("dropout of heads under [privacy]", "a reader", PROMISE, shift("clauses", head_dropout=0.1)),
    Attack("dropout of the adapter under [privacy]", "a reader", PROMISE, shift("clauses", adapter={"dropout": 0.1})),
)
