"""The experiment file: a federation, the institutions with their data, and the baselines to compare with."""

import tempfile
from collections.abc import Callable, Collection
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from client.institution import AdapterSize, Data, Institution
from shared.config import Model, Name, parse, read_toml
from shared.errors import MOST_LISTED, ConfigError, Reasons, listed
from shared.federation import Federation
from shared.model.backbone import beside, fingerprint, locate
from shared.tasks import build_task
from simulations.nodekeys import node_key, public_keys
from simulations.partition import MOST, Partition, partition, site_names

if TYPE_CHECKING:
    from client.site import Site
    from shared.model.multitask import MultiTaskModel

Baseline = Literal["centralised", "local_only"]


class Experiment(Model):
    """`experiment.toml`: a whole federation on one machine."""

    federation: Federation
    """As in federation.toml, without [secure_aggregation.keys].

    `backbone.sha256`, `rounds.institutions` and `rounds.quorum` may be left out.
    """
    institutions: dict[Name, dict[str, Data]] = Field(default_factory=dict)
    """Per institution and task, the data files, relative to the data folder."""
    partition: dict[str, Partition] = Field(default_factory=dict)
    """By task, one data set that is split over institutions called site-01, site-02, ..."""
    ranks: dict[Name, Annotated[int, Field(ge=1, le=256)]] = Field(default_factory=dict)
    """By institution, `adapter.rank` of its own file; the federation's for those that are not named."""
    baselines: tuple[Baseline, ...] = ("centralised", "local_only")
    """`centralised`: all data pooled; `local_only`: each institution alone; both by the same trainer."""

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if not self.institutions and not self.partition:
            raise ValueError("give [institutions], or [partition] of a task")
        if unknown := sorted(self.partition.keys() - self.federation.tasks.keys()):
            raise ValueError(
                f"[partition] must be of tasks among {listed(sorted(self.federation.tasks))}, not of {listed(unknown)}"
            )
        if unknown := sorted(self.ranks.keys() - set(self.federation.rounds.institutions)):
            raise ValueError(
                f"[ranks] must be of {listed(self.federation.rounds.institutions)}, not of {listed(unknown)}"
            )
        allowed = self.federation.adapter.ranks
        if wrong := {name: rank for name, rank in self.ranks.items() if rank not in allowed}:
            first = dict(islice(wrong.items(), MOST_LISTED))
            raise ValueError(f"[ranks] must be from {allowed.start} to {allowed.stop - 1} (adapter), not {first}")
        return self


def load_experiment(
    path: Path,
    *,
    data: Path | None = None,
    limit: int | None = None,
    workdir: Path | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> Experiment:
    """Read an experiment file, and split the data sets of its [partition].

    Args:
        path: The experiment file.
        data: The folder that its data paths start from; the file's own if None.
        limit: Use at most this many records per task and split; a lower number in the file holds all the same.
        workdir: Where the parts of a data set are written; a new folder for temporary files if None.
        announce: Told what the institutions of a partition hold.

    Raises:
        ConfigError: Names every wrong key.
        DataError: Records of a data set to be split are wrong.
    """
    values = read_toml(path)
    _fill_in(values, path)
    experiment = parse(Experiment, values, where=str(path))
    named, given = set(experiment.federation.rounds.institutions), set(_names(values))
    if named != given:
        raise ConfigError(
            f"{path}: expected [institutions] for exactly {listed(sorted(named))} as in "
            f"federation.rounds.institutions, but {listed(sorted(given))} are given."
        )
    folder = (data or path.parent).resolve()
    institutions = {
        name: {task: _anchored(source, folder, limit) for task, source in tasks.items()}
        for name, tasks in experiment.institutions.items()
    }
    target = (workdir or Path(tempfile.mkdtemp(prefix="collegium-"))) / "partition" if experiment.partition else folder
    for name, split in experiment.partition.items():
        task = build_task(name, experiment.federation.tasks[name])
        anchored = split.model_copy(update={"data": _anchored(split.data, folder, limit)})
        for site, share in partition(anchored, task, target / name, announce).items():
            if name in institutions.setdefault(site, {}):
                raise ConfigError(f"{path}: expected {name} of {site} in [institutions] or [partition], not in both.")
            institutions[site][name] = share
    return experiment.model_copy(update={"institutions": institutions})


def open_sites(
    experiment: Experiment,
    models: "MultiTaskModel | dict[int, MultiTaskModel]",
    names: Collection[str] | None = None,
) -> "dict[str, Site]":
    """The experiment's institutions, all of a rank on one model: each loads the state it receives before it works.

    Args:
        experiment: The file.
        models: Of the federation's own rank; or by rank those that there are, to which others are added.
        names: Of the institutions; all if None.

    Raises:
        ConfigError, DataError, PolicyError: Everything for which one of the institutions would not start.
    """
    from client.opening import build_site
    from client.preflight import Kept, check_terms
    from shared.model.multitask import build_model

    federation = experiment.federation
    own = federation.adapter.rank
    if not isinstance(models, dict):
        models = {own: models}
    sites, reasons = {}, Reasons()
    for name, tasks in experiment.institutions.items():
        if names is not None and name not in names:
            continue
        rank = experiment.ranks.get(name, own)
        if rank not in models:
            like = next(iter(models.values()), None)
            models[rank] = build_model(federation, rank=rank).to(like.device if like else "cpu")
        institution = Institution(name=name, data=tasks, adapter=AdapterSize(rank=rank))
        check_terms(institution, federation, reasons)
        with reasons.gather():
            sites[name] = build_site(institution, federation, models[rank], Kept(node_key=node_key(name)))
    reasons.end()
    return sites


def _fill_in(values: dict[str, Any], path: Path) -> None:
    """Complete what follows from the rest of the file, or from where it is."""
    federation, names = values.get("federation"), _names(values)
    if not isinstance(federation, dict):
        return
    rounds, backbone = federation.setdefault("rounds", {}), federation.setdefault("backbone", {})
    if isinstance(rounds, dict) and names:
        rounds.setdefault("institutions", names)
        rounds.setdefault("quorum", len(rounds["institutions"]))
        if isinstance(secure := federation.get("secure_aggregation"), dict):
            secure.setdefault("keys", public_keys(map(str, rounds["institutions"])))
    if isinstance(backbone, dict):
        backbone["name"] = beside(str(backbone.get("name", "minilm-l6")), path)
    if isinstance(backbone, dict) and "sha256" not in backbone:
        backbone["sha256"] = fingerprint(locate(str(backbone["name"])))


def _names(values: dict[str, Any]) -> list[str]:
    """Everybody whom the file gives data, as far as it is well-formed."""
    given, split = values.get("institutions", {}), values.get("partition", {})
    names = list(given) if isinstance(given, dict) else []
    tables = [table for table in split.values() if isinstance(table, dict)] if isinstance(split, dict) else []
    numbers = [number for table in tables if isinstance(number := table.get("institutions"), int)]
    return list(dict.fromkeys(names + site_names(min(MOST, max(numbers, default=0)))))


def _anchored(source: Data, folder: Path, limit: int | None) -> Data:
    changed: dict[str, Any] = {
        key: folder / path for key in ("train", "validation", "test") if (path := getattr(source, key))
    }
    if source.augmentation and source.augmentation.synonyms:
        synonyms = folder / source.augmentation.synonyms
        changed["augmentation"] = source.augmentation.model_copy(update={"synonyms": synonyms})
    if limit and (source.limit is None or source.limit < 1 or source.limit > limit):
        changed["limit"] = limit
    return source.model_copy(update=changed)
