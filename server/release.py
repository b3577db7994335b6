"""Writing the released bundle: what plain peft and `collegium predict` can load."""

import json
import shutil
from pathlib import Path

import tomli_w
from safetensors.numpy import save_file

from server.store import Store, scores
from shared.adapter import ADAPTER, HEAD
from shared.bundle import ADAPTER_FILE, FEDERATION_FILE, HEADS_FILE
from shared.errors import ConfigError, StoreError
from shared.federation import Federation
from shared.model import lora_config

README = """\
# {name}

A LoRA adapter and {count} task heads, trained by Collegium across {institutions} institutions (run {run}, best round
{best}). Tasks: {tasks}. Scores are in metrics.json, the agreement is in federation.toml.

    collegium predict . --task {task} --text "..."

The adapter alone, with plain peft:

    from peft import PeftModel
    from transformers import BertModel
    model = PeftModel.from_pretrained(BertModel.from_pretrained(BACKBONE), "adapter")

where BACKBONE is a copy of {backbone} with fingerprint {sha256}.
`heads.safetensors` holds `TASK/PARAMETER` of every head.
"""


def release(store: Store, run: str, folder: Path) -> Path:
    """Write the best round of a run to a new folder.

    Raises:
        ConfigError: The folder exists, or the run has not completed.
        StoreError: The disk refuses.
    """
    if folder.exists():
        raise ConfigError(f"Expected a new folder for the bundle, but {folder} exists; name another.")
    row = store.run(run)
    if row["status"] != "completed":
        raise ConfigError(f"Expected a completed run, but run {row['run']} is {row['status']}; resume it first.")
    federation, best = store.agreement(row["run"]), store.best_round(row["run"])
    assert best is not None
    state = store.load_checkpoint(row["run"], best)
    building = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(building, ignore_errors=True)
        (building / "adapter").mkdir(parents=True)
        lora_config(federation.adapter, federation.backbone.name).save_pretrained(str(building / "adapter"))
        for file, prefix in ((ADAPTER_FILE, ADAPTER), (HEADS_FILE, HEAD)):
            part = {n.removeprefix(prefix): a for n, a in state.items() if n.startswith(prefix)}
            save_file(part, building / file)
        (building / FEDERATION_FILE).write_text(federation_toml(federation), encoding="utf-8")
        metrics = {
            "run": row["run"],
            "digest": row["digest"],
            "best_round": best,
            "scores": store.rows(scores, row["run"]),
        }
        (building / "metrics.json").write_text(json.dumps(metrics, indent=2), encoding="utf-8")
        (building / "README.md").write_text(_readme(federation, row["run"], best), encoding="utf-8")
        building.replace(folder)
    except OSError as error:
        raise StoreError(f"Could not write the bundle {folder}: {error}; make room and release again.") from error
    return folder


def federation_toml(federation: Federation) -> str:
    """The agreement as TOML; reading it back gives the same digest."""
    return tomli_w.dumps(federation.model_dump(mode="json", exclude_none=True))


def _readme(federation: Federation, run: str, best: int) -> str:
    return README.format(
        name=federation.name,
        count=len(federation.tasks),
        institutions=len(federation.rounds.institutions),
        run=run,
        best=best,
        tasks=", ".join(f"{name} ({spec.type})" for name, spec in federation.tasks.items()),
        task=next(iter(federation.tasks)),
        backbone=federation.backbone.name,
        sha256=federation.backbone.sha256,
    )
