"""A bundle whose model was made smaller or faster: a BERT of its own stands in the place of adapter and backbone.

    optimized.json    what was done, of which release, and the SHA-256 of each file of the model
    model/            configuration and tokenizer, and the weights: `model.safetensors`, or `model.onnx`

Agreement, heads, thresholds and metrics lie where they lie in every bundle. Whoever has made it may sign it
(`shared.bundle.manifest`): its release id is its own, for it is another model than the one that institutions consented
to, which `Optimized.source` names.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from shared.bundle.folder import OPTIMIZED_FILE, Bundle, load_heads
from shared.bundle.keys import ReleaseKey
from shared.config import Model, Name
from shared.errors import BundleError, ConfigError, listed
from shared.fields import Digest

MODEL = Path("model")
Runtime = Literal["torch", "onnx"]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")]


class Optimized(Model):
    """`optimized.json`."""

    version: Literal[1] = 1
    source: Digest
    """The release's id that it was made of."""
    signed_by: ReleaseKey | None
    """The key that had signed that one; None if nobody had."""
    runtime: Runtime
    """What computes the encoder."""
    int8: bool
    """Whether its weights are integers of eight bits."""
    layers: tuple[Annotated[int, Field(ge=0)], ...]
    """Of the original BERT those that are left, from 0 and from the input."""
    distilled: tuple[Name, ...]
    """The tasks whose heads have learnt anew from the whole model."""
    files: Annotated[dict[FileName, Digest], Field(min_length=1)]
    """SHA-256 of all that lies in `model/`."""


def load_optimized(folder: Path) -> tuple[Bundle, Optimized]:
    """Read an optimized bundle; the arrays are those of its heads.

    Raises:
        ConfigError: The folder is not one.
        BundleError: A file of the model is not as it was made.
    """
    try:
        about = Optimized.model_validate_json((folder / OPTIMIZED_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"Expected {OPTIMIZED_FILE} of an optimized bundle in {folder}, but it cannot be read as one "
            f"({type(error).__name__}); take the whole bundle as `collegium optimize` wrote it."
        ) from None
    try:
        found = hashes(folder / MODEL)
    except OSError as error:
        raise BundleError(f"Could not read the model in {folder}: {error.strerror}; take the bundle anew.") from None
    if wrong := sorted(name for name, _ in found.items() ^ about.files.items()):
        raise BundleError(
            f"Expected the model in {folder} as it was made, but {listed(sorted(set(wrong)))} of {MODEL} differ; take "
            "the bundle anew."
        )
    return load_heads(folder), about


def hashes(model: Path) -> dict[str, str]:
    """SHA-256 of each file in a folder; OSError if one cannot be read."""
    found = {}
    for path in sorted(model.iterdir()):
        with path.open("rb") as stream:
            found[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found
