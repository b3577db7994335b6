"""What `collegium audit` found, as far as it is about the release at hand."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import ConfigError
from shared.fields import Digest

LARGEST = 2**26
"""Bytes of an audit.json."""
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Membership(_Part):
    """How well an attack tells members from others."""

    auc: Annotated[float, Field(ge=0, le=1)]
    low: float
    """Of the confidence interval."""
    high: float


class AuditFile(_Part):
    """Of `audit.json`, what a release needs."""

    audit: Literal["bundle", "training"]
    release: Digest | None = None
    """Which model an audit of a bundle was of."""
    agreement: Digest | None = None
    """Under which agreement an audit of training trained."""
    task: str | None = None
    by_drop: Membership | None = None
    exposure_in: tuple[Finite, ...] = ()


@dataclass(frozen=True)
class Audited:
    """One audit of this release."""

    sha256: str
    """Of its audit.json."""
    kind: Literal["bundle", "training"]
    task: str | None
    membership: Membership | None
    exposure: float | None
    """Mean over the secrets that were planted, in bits."""


def read_audits(files: Sequence[Path], *, release: str, agreement: str) -> list[Audited]:
    """Read audits; one of a bundle is about its very model, one of training about every model of its agreement.

    Raises:
        ConfigError: A file cannot be read, or is about something else.
    """
    return [_read(file, release, agreement) for file in files]


def _read(file: Path, release: str, agreement: str) -> Audited:
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST)
        found = AuditFile.model_validate_json(content)
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"Expected the audit.json of an audit in {file}, but it cannot be read as one ({type(error).__name__})."
        ) from None
    expected, of = (release, found.release) if found.audit == "bundle" else (agreement, found.agreement)
    if of != expected:
        what = "release" if found.audit == "bundle" else "agreement"
        raise ConfigError(
            f"Expected an audit of {what} {expected[:12]}..., but {file} is of {(of or 'none')[:12]}; audit this one "
            "(`collegium server release --draft` writes it unsigned, to be audited)."
        )
    return Audited(
        hashlib.sha256(content).hexdigest(),
        found.audit,
        found.task,
        found.by_drop,
        fmean(found.exposure_in) if found.exposure_in else None,
    )
