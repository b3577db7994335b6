"""A released bundle: the folder that `collegium server release` and `collegium client bundle` write."""

import json
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from shared.adapter import ADAPTER, HEAD, PREFIX, layer_of, task_of
from shared.codec import Arrays, as_safetensors
from shared.errors import ConfigError, StoreError, listed
from shared.federation import Federation, federation_toml, load_federation
from shared.model.backbone import has_pooler

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER_FILE = Path("adapter") / "adapter_model.safetensors"
PEFT_FILE = Path("adapter") / "adapter_config.json"
HEADS_FILE = Path("heads.safetensors")
FEDERATION_FILE = Path("federation.toml")
METRICS_FILE = Path("metrics.json")
THRESHOLDS_FILE = Path("thresholds.json")
README_FILE = Path("README.md")
OPTIMIZED_FILE = Path("optimized.json")
"""In a bundle whose adapter and backbone `collegium optimize` has made one model (`shared.bundle.optimized`)."""
PREDICT = """\
    collegium predict . --task {task} --text "..."

`heads.safetensors` holds `TASK/PARAMETER` of every head.
"""
PEFT = """\
The adapter alone, with plain peft:

    from peft import PeftModel
    from transformers import BertModel
    bert = BertModel.from_pretrained(BACKBONE{pooler})
    model = PeftModel.from_pretrained(bert, "adapter").eval()

where BACKBONE is a copy of {backbone} with fingerprint {sha256}. Heads read `last_hidden_state`.
"""


@dataclass(frozen=True)
class Bundle:
    """A trained federation: its agreement, and the shared state under its wire names."""

    federation: Federation
    arrays: Arrays
    adapter: Mapping[str, Any]
    """What `adapter_config.json` tells peft."""
    settings: Mapping[str, Mapping[str, float]]
    """Per task, the settings of `Task.predict` that were tuned on validation records."""

    @property
    def peft(self) -> "LoraConfig":
        """The adapter's configuration for peft."""
        from peft import LoraConfig, PeftConfig  # here, because who writes or only reads a bundle needs none of it

        # The BERT may lie elsewhere than it says.
        own: dict[str, Any] = {**self.adapter, "base_model_name_or_path": None}
        config: object = PeftConfig.from_peft_type(**own)  # type: ignore[no-untyped-call]
        assert isinstance(config, LoraConfig)
        return config

    @property
    def tasks(self) -> list[str]:
        """Those whose heads it has."""
        return sorted(heads_of(self.arrays))


def write_bundle(
    folder: Path,
    federation: Federation,
    arrays: Mapping[str, np.ndarray],
    ranks: Mapping[str, int],
    *,
    metrics: Mapping[str, Any],
    readme: str,
    finish: Callable[[Path], object] = lambda building: None,
) -> Path:
    """Write a new folder; it appears whole or not at all.

    Args:
        folder: To make.
        federation: The agreement.
        arrays: Adapter and heads as `shared.model.deployed` makes them.
        ranks: As well.
        metrics: What is told of it; `settings` as `Bundle` has them are put apart, and `tasks` are those whose heads
            there are, if not all.
        readme: What the bundle is, in Markdown; how to use it is added.
        finish: Called with the folder when all is in it, before it appears: to sign it.

    Raises:
        ConfigError: The folder exists.
        StoreError: The disk refuses.
    """
    if folder.exists():
        raise ConfigError(f"Expected a new folder for the bundle, but {folder} exists; name another.")
    building = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(building, ignore_errors=True)
        (building / ADAPTER_FILE).parent.mkdir(parents=True)
        layers = {layer_of(name) for name in arrays if name.startswith(ADAPTER)}
        described = peft_config(federation, ranks, layers)
        (building / PEFT_FILE).write_text(_json(described), encoding="utf-8")
        for file, prefix in ((ADAPTER_FILE, ADAPTER), (HEADS_FILE, HEAD)):
            part = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            (building / file).write_bytes(as_safetensors(part))
        (building / FEDERATION_FILE).write_text(federation_toml(federation), encoding="utf-8")
        (building / THRESHOLDS_FILE).write_text(_json(metrics["settings"]), encoding="utf-8")
        told = {key: value for key, value in metrics.items() if key != "settings"}
        write_told(building, federation, heads_of(arrays), told, readme)
        finish(building)
        building.replace(folder)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"Could not write the bundle {folder}: {error}; make room and release again.") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle. Raises ConfigError if the folder is not one, or lacks the adapter or the head of a task it has."""
    if is_optimized(folder):
        raise ConfigError(f"Expected a bundle with its adapter, but {folder} is an optimized one; name its source.")
    bundle = load_heads(folder)
    try:
        arrays = {ADAPTER + name: array for name, array in load_file(folder / ADAPTER_FILE).items()}
        adapter = dict(json.loads((folder / PEFT_FILE).read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, SafetensorError) as error:
        raise _unreadable(folder, error) from error
    if not arrays:
        raise ConfigError(
            f"Expected an adapter in {folder}, but it is empty; take the whole bundle as it was released."
        )
    return replace(bundle, arrays=arrays | bundle.arrays, adapter=adapter)


def load_heads(folder: Path) -> Bundle:
    """As `load_bundle`, but for the adapter."""
    federation = load_federation(folder / FEDERATION_FILE)
    try:
        arrays = {HEAD + name: array for name, array in load_file(folder / HEADS_FILE).items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(folder, error) from error
    metrics, settings = load_metrics(folder), _settings(folder)
    heads, expected = heads_of(arrays), set(metrics.get("tasks", federation.tasks))
    if heads != expected:
        raise ConfigError(
            f"Expected the heads of {listed(sorted(expected))} in {folder}, but it has the heads of "
            f"{listed(sorted(heads))}; take the whole bundle as it was released."
        )
    return Bundle(federation, arrays, {}, settings)


def is_optimized(folder: Path) -> bool:
    """Whether a bundle has one model in the place of adapter and backbone."""
    return (folder / OPTIMIZED_FILE).exists()


def _unreadable(folder: Path, error: Exception) -> ConfigError:
    return ConfigError(f"Expected a released bundle in {folder}, but it could not be read: {error}.")


def peft_config(federation: Federation, ranks: Mapping[str, int], layers: Collection[str]) -> dict[str, Any]:
    """What `adapter_config.json` tells peft, whose defaults hold for all else.

    Args:
        federation: The agreement.
        ranks: By layer, the rank of an adapter whose factors have the scale in them already.
        layers: Those that are adapted, so that none but them is looked for in a BERT that has more (a pooler).
    """
    adapter, own = federation.adapter, {layer.removeprefix(PREFIX): rank for layer, rank in ranks.items()}
    return {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": federation.backbone.name,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "use_rslora": adapter.rslora and not own,
        "lora_dropout": adapter.dropout,
        "target_modules": sorted(layer.removeprefix(PREFIX) for layer in layers),
        "rank_pattern": own,
        "alpha_pattern": own,  # alpha / rank is 1
        "bias": "none",
    }


def heads_of(arrays: Mapping[str, np.ndarray]) -> set[str]:
    """The tasks whose heads are among named arrays."""
    return {task for name in arrays if (task := task_of(name)) is not None}


def write_told(
    folder: Path, federation: Federation, tasks: Collection[str], metrics: Mapping[str, Any], readme: str
) -> None:
    """Write what is told of a model: metrics.json, and README.md with how to use the heads of these tasks.

    Raises:
        OSError: The disk refuses.
    """
    (folder / METRICS_FILE).write_text(_json(metrics), encoding="utf-8")
    (folder / README_FILE).write_text(_with_usage(readme, federation, tasks), encoding="utf-8")


def _with_usage(readme: str, federation: Federation, tasks: Collection[str]) -> str:
    name = federation.backbone.name
    pooler = "" if has_pooler(name) else ", add_pooling_layer=False"
    peft = PEFT.format(backbone=name, sha256=federation.backbone.sha256, pooler=pooler)
    return "\n".join([readme, *([PREDICT.format(task=min(tasks))] if tasks else []), peft])


def load_metrics(folder: Path) -> dict[str, Any]:
    """What a bundle's metrics.json tells; ConfigError if it cannot be read."""
    return _read(folder / METRICS_FILE)


def _settings(folder: Path) -> dict[str, dict[str, float]]:
    """The tuned settings by task; bundles of before have them among the metrics."""
    there = (folder / THRESHOLDS_FILE).exists()
    try:
        found = _read(folder / THRESHOLDS_FILE) if there else load_metrics(folder)["settings"]
        return {task: dict(values) for task, values in found.items()}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"Expected the tuned settings in {folder}, but they cannot be read: {error}.") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"Expected a released bundle's {file.name} in {file}, but it has none: {error}.") from error


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True)
