"""How a bundle is served: what the command line says, as plain data that worker processes are given."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from shared.errors import ConfigError, listed

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class Settings:
    """What one server serves, and how much it takes on."""

    bundles: tuple[tuple[str, Path], ...]
    """By name. Tasks of several bundles that have the same name are called `BUNDLE.TASK`."""
    backbone: str | None = None
    """Where the BERT is, if not where a bundle says."""
    key: Path | None = None
    """The coordinator's public release key, with which bundles must be signed."""
    tokens: Path | None = None
    """A file of tokens, see `client.serving.tokens`; None lets in whoever reaches the door, which is on loopback."""
    mask: Path | None = None
    """A file with the keys of `[data.TASK.mask]`: personal data in requests are replaced before a model reads them."""
    precision: Precision = "auto"
    """Of the encoder's products: `auto` is bfloat16 where the processor multiplies in it."""
    device: str = "cpu"
    threads: int = 1
    """Of torch, in each worker."""
    queue: int = 1024
    """Most rows of model input that wait; a request that finds no room is answered 503."""
    batch_tokens: int = 4096
    """Most padded sub-tokens that pass the encoder at once."""
    deadline: float = 30.0
    """Seconds after which a request is answered 504; a client may ask for fewer."""
    most_texts: int = 256
    """In one request."""
    most_bytes: int = 2**20
    """Of a request's body."""
    workers: int = 1
    """Processes that share the port; rates of tokens are divided among them."""
    folder: Path | None = field(default=None)
    """Where workers share their metrics and hear of a reload; None for a single one."""


def named(given: list[str]) -> tuple[tuple[str, Path], ...]:
    """Bundles as the command line names them: `NAME=FOLDER`, or a folder whose own name it is.

    Raises:
        ConfigError: Two have the same name, or one has none that can stand in an address.
    """
    bundles: dict[str, Path] = {}
    for word in given:
        name, equals, folder = word.partition("=")
        path = Path(folder if equals else word)
        name = name if equals else path.resolve().name
        if not name or not all(character.isalnum() or character in "-_" for character in name):
            raise ConfigError(f"Expected a bundle's name of letters, digits, - and _, not {name!r}; say NAME=FOLDER.")
        if name in bundles:
            raise ConfigError(f"Expected bundles of different names, but {name} came twice; say NAME=FOLDER.")
        bundles[name] = path
    if missing := [str(path) for path in bundles.values() if not path.is_dir()]:
        raise ConfigError(f"Expected the folders of bundles, but {listed(missing)} are none.")
    return tuple(bundles.items())
