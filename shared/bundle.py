"""Reading a released bundle: the folder that `collegium server release` writes."""

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file

from shared.adapter import ADAPTER, HEAD
from shared.codec import Arrays
from shared.errors import ConfigError
from shared.federation import Federation, load_federation

ADAPTER_FILE = Path("adapter") / "adapter_model.safetensors"
HEADS_FILE = Path("heads.safetensors")
FEDERATION_FILE = Path("federation.toml")


@dataclass(frozen=True)
class Bundle:
    """A trained federation: its agreement, and the shared state under its wire names."""

    federation: Federation
    arrays: Arrays


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle. Raises ConfigError if the folder is not one."""
    federation = load_federation(folder / FEDERATION_FILE)
    try:
        arrays = {ADAPTER + name: array for name, array in load_file(folder / ADAPTER_FILE).items()}
        arrays |= {HEAD + name: array for name, array in load_file(folder / HEADS_FILE).items()}
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"Expected a released bundle in {folder}, but it could not be read: {error}.") from error
    return Bundle(federation, arrays)
