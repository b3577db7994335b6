"""Writing the released bundle: what plain peft and `collegium predict` can load."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from safetensors import SafetensorError
from safetensors.numpy import save_file

from server.deployed import deployed
from server.store import Store, rounds, scores
from shared.adapter import ADAPTER, HEAD
from shared.bundle import ADAPTER_FILE, FEDERATION_FILE, HEADS_FILE, METRICS_FILE
from shared.codec import Arrays
from shared.errors import ConfigError, StoreError
from shared.federation import Federation
from shared.lora import lora_config
from shared.tasks import TASK_TYPES

README = """\
# {name}

A LoRA adapter and {count} task heads, trained by Collegium across {institutions} institutions (run {run}, best round
{best} of {last}).

{table}

Tasks: {tasks}. All metrics of all rounds are in metrics.json, the agreement is in federation.toml.

    collegium predict . --task {task} --text "..."

The adapter alone, with plain peft:

    from peft import PeftModel
    from transformers import BertModel
    model = PeftModel.from_pretrained(BertModel.from_pretrained(BACKBONE), "adapter")

where BACKBONE is a copy of {backbone} with fingerprint {sha256}.
`heads.safetensors` holds `TASK/PARAMETER` of every head.
"""


def release(store: Store, run: str, folder: Path) -> Path:
    """Write the best round of a run to a new folder; it appears whole or not at all.

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
    metrics = {
        "run": row["run"],
        "digest": row["digest"],
        "best_round": best,
        "rounds": store.rows(rounds, row["run"]),
        "scores": store.rows(scores, row["run"]),
        "settings": tuned_settings(federation, store.rows(scores, row["run"]), best),
    }
    building = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(building, ignore_errors=True)
        (building / "adapter").mkdir(parents=True)
        states = [store.load_checkpoint(row["run"], round) for round in range(1, best + 1)]
        adapter, ranks = deployed(store.load_checkpoint(row["run"], best), states, federation)
        _write(building, federation, adapter, ranks, metrics)
        building.replace(folder)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"Could not write the bundle {folder}: {error}; make room and release again.") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def tuned_settings(
    federation: Federation, scored: Sequence[Mapping[str, Any]], best: int
) -> dict[str, dict[str, float]]:
    """Per task, the settings that institutions tuned on validation records of the best round.

    The mean over institutions, weighted by their validation records.
    """
    settings: dict[str, dict[str, float]] = {}
    for task, spec in federation.tasks.items():
        for setting in TASK_TYPES[spec.type].tunable:
            rows = [
                row
                for row in scored
                if (row["task"], row["metric"], row["round"], row["split"]) == (task, setting, best, "validation")
            ]
            if rows:
                total = sum(row["examples"] for row in rows)
                value = sum(row["value"] * row["examples"] for row in rows) / total
                settings.setdefault(task, {})[setting] = value
    return settings


def _write(
    folder: Path, federation: Federation, state: Arrays, ranks: Mapping[str, int], metrics: Mapping[str, Any]
) -> None:
    lora_config(federation.adapter, federation.backbone.name, ranks).save_pretrained(str(folder / "adapter"))
    for file, prefix in ((ADAPTER_FILE, ADAPTER), (HEADS_FILE, HEAD)):
        part = {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
        save_file(part, folder / file)
    (folder / FEDERATION_FILE).write_text(federation_toml(federation), encoding="utf-8")
    (folder / METRICS_FILE).write_text(json.dumps(metrics, indent=2), encoding="utf-8")
    (folder / "README.md").write_text(_readme(federation, metrics), encoding="utf-8")


def federation_toml(federation: Federation) -> str:
    """The agreement as TOML; reading it back gives the same digest."""
    return tomli_w.dumps(federation.model_dump(mode="json", exclude_none=True))


def _readme(federation: Federation, metrics: Mapping[str, Any]) -> str:
    best = metrics["best_round"]
    return README.format(
        name=federation.name,
        count=len(federation.tasks),
        institutions=len(federation.rounds.institutions),
        run=metrics["run"],
        best=best,
        last=max((row["round"] for row in metrics["rounds"]), default=0),
        table=_table(metrics["scores"], best),
        tasks=", ".join(f"{name} ({spec.type})" for name, spec in federation.tasks.items()),
        task=next(iter(federation.tasks)),
        backbone=federation.backbone.name,
        sha256=federation.backbone.sha256,
    )


def _table(tested: Sequence[Mapping[str, Any]], best: int) -> str:
    """Every metric on the test records, before training and after, as Markdown."""
    values = {
        (row["institution"], row["task"], row["metric"], row["round"]): row["value"]
        for row in tested
        if row["split"] == "test"
    }
    lines = ["| institution | task | metric | before | after |", "|---|---|---|---:|---:|"]
    for institution, task, metric, number in sorted(values):
        if number == best:
            before = values.get((institution, task, metric, 0))
            shown = "" if before is None else f"{before:.3f}"
            after = values[institution, task, metric, number]
            lines.append(f"| {institution} | {task} | {metric} | {shown} | {after:.3f} |")
    return "\n".join(lines)
