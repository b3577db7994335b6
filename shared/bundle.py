"""Reading a released bundle: the folder that `collegium server release` writes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.numpy import load_file

from shared.adapter import ADAPTER, HEAD, task_of
from shared.codec import Arrays
from shared.errors import ConfigError
from shared.federation import Federation, load_federation

ADAPTER_FILE = Path("adapter") / "adapter_model.safetensors"
HEADS_FILE = Path("heads.safetensors")
FEDERATION_FILE = Path("federation.toml")
METRICS_FILE = Path("metrics.json")


@dataclass(frozen=True)
class Bundle:
    """A trained federation: its agreement, and the shared state under its wire names."""

    federation: Federation
    arrays: Arrays
    adapter: LoraConfig
    """What peft is told of the adapter."""
    settings: Mapping[str, Mapping[str, float]]
    """Per task, the settings of `Task.predict` that were tuned on validation records."""


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle. Raises ConfigError if the folder is not one, or lacks the adapter or a task's head."""
    federation = load_federation(folder / FEDERATION_FILE)
    try:
        arrays = {ADAPTER + name: array for name, array in load_file(folder / ADAPTER_FILE).items()}
        arrays |= {HEAD + name: array for name, array in load_file(folder / HEADS_FILE).items()}
        adapter = LoraConfig.from_pretrained(str(folder / ADAPTER_FILE.parent))
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"Expected a released bundle in {folder}, but it could not be read: {error}.") from error
    heads = {task for name in arrays if (task := task_of(name)) is not None}
    if heads != federation.tasks.keys() or not any(name.startswith(ADAPTER) for name in arrays):
        raise ConfigError(
            f"Expected an adapter and the heads of {sorted(federation.tasks)} in {folder}, but it has the heads of "
            f"{sorted(heads)}; take the whole bundle as it was released."
        )
    return Bundle(federation, arrays, adapter, _settings(folder / METRICS_FILE))


def _settings(file: Path) -> dict[str, dict[str, float]]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))["settings"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"Expected the tuned settings in {file}, but they could not be read: {error}.") from error
