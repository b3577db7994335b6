"""The experiment file: a federation, the institutions with their data, and the baselines to compare with."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from client.institution import Data, Institution
from client.site import Site, build_site
from shared.backbone import fingerprint, locate
from shared.errors import ConfigError
from shared.federation import Federation, Model, Name, parse, read_toml
from shared.model import MultiTaskModel

Baseline = Literal["centralised", "local_only"]


class Experiment(Model):
    """`experiment.toml`: a whole federation on one machine."""

    federation: Federation
    """As in federation.toml; `backbone.sha256`, `rounds.institutions` and `rounds.quorum` may be left out."""
    institutions: Annotated[dict[Name, dict[str, Data]], Field(min_length=1)]
    """Per institution and task, the data files, relative to the data folder."""
    baselines: tuple[Baseline, ...] = ("centralised", "local_only")
    """`centralised`: all data pooled; `local_only`: each institution alone; both by the same trainer."""


def load_experiment(path: Path, *, data: Path | None = None, limit: int | None = None) -> Experiment:
    """Read an experiment file.

    Args:
        path: The experiment file.
        data: The folder that its data paths start from; the file's own if None.
        limit: Use at most this many records per task and split; a lower limit in the file holds all the same.

    Raises:
        ConfigError: Names every wrong key.
    """
    values = read_toml(path)
    _fill_in(values)
    experiment = parse(Experiment, values, where=str(path))
    named, given = set(experiment.federation.rounds.institutions), set(experiment.institutions)
    if named != given:
        raise ConfigError(
            f"{path}: expected [institutions] for exactly {sorted(named)} as in federation.rounds.institutions, "
            f"but {sorted(given)} are given."
        )
    folder = (data or path.parent).resolve()
    institutions = {
        name: {task: _anchored(source, folder, limit) for task, source in tasks.items()}
        for name, tasks in experiment.institutions.items()
    }
    return experiment.model_copy(update={"institutions": institutions})


def open_sites(experiment: Experiment, model: MultiTaskModel) -> dict[str, Site]:
    """The experiment's institutions, all on one model: each loads the state it receives before it works."""
    return {
        name: build_site(Institution(name=name, data=tasks), experiment.federation, model)
        for name, tasks in experiment.institutions.items()
    }


def _fill_in(values: dict[str, Any]) -> None:
    """Complete what follows from the rest of the file."""
    federation, institutions = values.get("federation"), values.get("institutions")
    if not isinstance(federation, dict) or not isinstance(institutions, dict):
        return
    rounds, backbone = federation.setdefault("rounds", {}), federation.setdefault("backbone", {})
    if isinstance(rounds, dict):
        rounds.setdefault("institutions", list(institutions))
        rounds.setdefault("quorum", len(rounds["institutions"]))
    if isinstance(backbone, dict) and "sha256" not in backbone:
        backbone["sha256"] = fingerprint(locate(str(backbone.get("name", "minilm-l6"))))


def _anchored(source: Data, folder: Path, limit: int | None) -> Data:
    changed: dict[str, Any] = {
        key: folder / path for key in ("train", "validation", "test") if (path := getattr(source, key))
    }
    if source.augmentation and source.augmentation.synonyms:
        synonyms = folder / source.augmentation.synonyms
        changed["augmentation"] = source.augmentation.model_copy(update={"synonyms": synonyms})
    fewest = min((bound for bound in (source.limit, limit) if bound), default=None)
    return source.model_copy(update=changed | {"limit": fewest})
