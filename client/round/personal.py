"""An institution's own model of the released round: fine-tuning it, keeping it, and writing it as a bundle.

It is one file of the state folder, written when the coordinator asks to score the released round, so that it is there
whatever becomes of the daemon or the coordinator. The next run's takes its place.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from client.institution import load_institution
from client.train import trainer
from client.train.hooks import Hook
from shared.adapter import get_state, of_tasks
from shared.bundle import write_bundle
from shared.codec import as_safetensors
from shared.config import parse
from shared.errors import ConfigError, StoreError
from shared.federation import Federation
from shared.model.deployed import deployed
from shared.model.lora import set_trained
from shared.model.multitask import MultiTaskModel
from shared.process.files import write_synced
from shared.tasks import Example

FILE = "personal.safetensors"
FINE_TUNE = 0
"""The round that the fine-tune's random numbers are drawn for; rounds count from 1."""
README = """\
# {federation}: the model of {institution}

A LoRA adapter and {count} task heads: round {round} of run {run}, as {institution} has it. {parts}
It was trained on {institution}'s own records, so it is no more public than they are.

{table}

metrics.json has all of this, the agreement is in federation.toml.
"""


def fine_tune(
    model: MultiTaskModel,
    examples: Sequence[Example],
    federation: Federation,
    *,
    institution: str,
    augment: trainer.Augment | None,
    hooks: Sequence[Hook] = (),
) -> None:
    """Train the loaded state on, by a schedule of its own, on all that institutions train in any round.

    Args:
        model: Holds the institution's state of the released round; changed in place.
        examples: The site's encoded training records.
        federation: Says for how many epochs.
        institution: Decides the order of records, with the federation's seed.
        augment: As `trainer.train`.
        hooks: As well.
    """
    set_trained(model.encoder, {factor for trained in federation.method.trains for factor in trained})
    trainer.train(
        model,
        examples,
        federation.training.model_copy(update={"epochs_per_round": federation.fine_tunes}),
        seed=trainer.derive_seed(federation.seed, institution, FINE_TUNE),
        augment=augment,
        hooks=hooks,
    )


def keep_model(
    folder: Path,
    model: MultiTaskModel,
    federation: Federation,
    *,
    tasks: Collection[str],
    about: Mapping[str, Any],
) -> None:
    """Write the model's present state to a site's state folder, in the place of an earlier one.

    Args:
        folder: The state folder.
        model: Holds the state.
        federation: The agreement.
        tasks: Whose heads are the institution's.
        about: `institution`, `run`, `round`, `scores` by task and metric, `settings` as `shared.bundle.Bundle` has.

    Raises:
        StoreError: The disk refuses; the earlier file is intact.
    """
    made = deployed(of_tasks(get_state(model), tasks), model.base.added, federation)
    about = {"tasks": sorted(tasks), "cut_off": made.error, **about}
    metadata = {"federation": federation.model_dump(mode="json"), "ranks": made.ranks, **about}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_synced(folder / FILE, as_safetensors(made.arrays, {"about": json.dumps(metadata)}))
    except OSError as error:
        raise StoreError(f"Could not write this site's model to {folder / FILE}: {error}; make room.") from error


def write_own_bundle(path: Path, out: Path) -> Path:
    """Write the model that a site keeps as a bundle, of the same form as a released one.

    Args:
        path: `institution.toml`.
        out: A new folder.

    Raises:
        ConfigError: There is no such model yet, or the folder exists.
        StoreError: The model cannot be read, or the disk refuses.
    """
    file = load_institution(path).runtime.state / FILE
    if not file.exists():
        raise ConfigError(
            f"Expected this site's model in {file}, but there is none yet: it comes with the end of a run that this "
            "site takes part in; see runtime.state if the run has ended."
        )
    try:
        with safe_open(file, "numpy") as opened:
            about = json.loads((opened.metadata() or {})["about"])
            arrays = {name: opened.get_tensor(name) for name in opened.offset_keys()}
    except (OSError, SafetensorError, LookupError, ValueError) as error:
        raise StoreError(f"Could not read this site's model in {file}: {error}.") from error
    federation = parse(Federation, about.pop("federation"), where=str(file))
    ranks = about.pop("ranks")
    metrics = {"digest": federation.digest, **about}
    return write_bundle(out, federation, arrays, ranks, metrics=metrics, readme=_readme(federation, about))


def _readme(federation: Federation, about: Mapping[str, Any]) -> str:
    kept = {"B": "its own B of the adapter", "heads": "its own heads"}
    parts = [kept[part] for part in federation.method.keeps]
    if federation.fine_tunes:
        parts.append(f"a fine-tune of {federation.fine_tunes} epochs")
    lines = ["| task | metric | test score |", "|---|---|---:|"]
    for task, values in sorted(about["scores"].items()):
        lines += [f"| {task} | {metric} | {value:.3f} |" for metric, value in sorted(values.items())]
    return README.format(
        federation=federation.name,
        institution=about["institution"],
        count=len(about["tasks"]),
        run=about["run"],
        round=about["round"],
        parts=f"Its own in it: {', '.join(parts)}." if parts else "It is the global model of that round.",
        table="\n".join(lines) if len(lines) > 2 else "It was not scored on test records here.",
    )
