"""`[data.TASK.mask]`: which personal data are replaced before training, and what finds them."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from shared.config import Model

Kind = Literal["name", "place", "date", "number", "contact"]
KINDS: tuple[Kind, ...] = ("name", "place", "date", "number", "contact")


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"expected a regular expression, but {error}") from None
    return pattern


class Mask(Model):
    """How personal data are replaced in the texts of one task."""

    model: Path
    """Folder of the spaCy model that finds names and places: the one that has `meta.json` in it."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """What its files add up to; with another one nothing is read, and the error says what was found."""
    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")] = "en"
    """Of the texts and the model."""
    kinds: tuple[Kind, ...] = KINDS
    """What is replaced: names, places and addresses, dates, numbers of five digits and more, mail and web addresses."""
    patterns: dict[str, Annotated[str, AfterValidator(_compiles)]] = Field(default_factory=dict)
    """Regular expressions of numbers of your own, by any name: `{ case = "[A-Z]{2}-\\\\d{3}" }`."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.4
    """From which confidence on something that was found is replaced."""
