"""The three trackers, each as much of its own library as a run needs; imported only where a coordinator names one."""

import time
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from server.home import ServerHome, Tracking
from shared.errors import ConfigError

MODULES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}
"""What each key of `[tracking]` needs."""


class Tracker(Protocol):
    """Takes a run as it goes; each method may fail, and is called again later then."""

    def begin(self, run: str, name: str, parameters: Mapping[str, str]) -> None:
        """Take up a run, anew or where it was left."""

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        """Keep what was measured in a round."""

    def release(self, run: str, folder: Path) -> None:
        """Keep a released bundle."""

    def end(self, run: str, *, completed: bool) -> None:
        """Nothing more comes, unless the run goes on."""


def check_trackers(wanted: Tracking) -> None:
    """Raise ConfigError if the library of a tracker that is asked for is not installed."""
    missing = [key for key, module in MODULES.items() if getattr(wanted, key) and find_spec(module) is None]
    if missing:
        extras = ",".join(missing)
        raise ConfigError(
            f"Expected what [tracking] in server.toml names to be installed, but {' and '.join(missing)} is not: "
            f"pip install 'collegium[{extras}]', or remove the line."
        )


def open_trackers(home: ServerHome, wanted: Tracking) -> dict[str, Tracker]:
    """Those that are asked for, by their keys."""
    found: dict[str, Tracker] = {}
    if wanted.tensorboard:
        found["tensorboard"] = TensorBoard(home.root / wanted.tensorboard)
    if wanted.mlflow:
        found["mlflow"] = MLflow(wanted.mlflow, home.root / "mlflow")
    if wanted.wandb:
        found["wandb"] = Wandb(wanted.wandb, home.root / "wandb")
    return found


class TensorBoard:
    """Event files, a folder for each run.

    Args:
        folder: What `tensorboard --logdir` is given.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._event, self._summary, self._tensor = (
            import_module(f"tensorboard.compat.proto.{name}_pb2") for name in ("event", "summary", "tensor")
        )
        self._writer = import_module("tensorboard.summary.writer.event_file_writer").EventFileWriter
        self._open: dict[str, Any] = {}

    def begin(self, run: str, name: str, parameters: Mapping[str, str]) -> None:
        """Open the run's folder; parameters are a table of text."""
        rows = "".join(f"| {key} | {value} |\n" for key, value in parameters.items())
        self._text(run, "parameters", f"| {name} | {run} |\n|---|---|\n{rows}")

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        """A point each."""
        points = [self._summary.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(run, step, points)

    def release(self, run: str, folder: Path) -> None:
        """TensorBoard keeps no files: the bundle's README and the names of its files."""
        files = "".join(f"- {file.relative_to(folder)}\n" for file in sorted(folder.rglob("*")) if file.is_file())
        self._text(run, "release", f"{(folder / 'README.md').read_text(encoding='utf-8')}\n{files}")

    def end(self, run: str, *, completed: bool) -> None:
        """Close the file."""
        if run in self._open:
            self._open.pop(run).close()

    def _text(self, run: str, tag: str, text: str) -> None:
        tensor = self._tensor.TensorProto(dtype=7, string_val=[text.encode()])  # DT_STRING
        tensor.tensor_shape.dim.add(size=1)
        metadata = self._summary.SummaryMetadata()
        metadata.plugin_data.plugin_name = "text"
        self._write(run, 0, [self._summary.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])

    def _write(self, run: str, step: int, points: list[Any]) -> None:
        if run not in self._open:
            self._open[run] = self._writer(str(self._folder / run))
        summary = self._summary.Summary(value=points)
        self._open[run].add_event(self._event.Event(wall_time=time.time(), step=step, summary=summary))
        self._open[run].flush()


class MLflow:
    """A server, or a database file; an experiment for each federation.

    Args:
        uri: As MLflow names it: `http://...`, or `sqlite:///FILE`.
        artifacts: Where releases are kept of runs in a database file; a server has a place of its own.
    """

    def __init__(self, uri: str, artifacts: Path) -> None:
        self._mlflow = import_module("mlflow")
        self._client = self._mlflow.MlflowClient(uri)
        self._artifacts = artifacts.resolve().as_uri() if uri.startswith("sqlite:") else None
        self._known: dict[str, str] = {}

    def begin(self, run: str, name: str, parameters: Mapping[str, str]) -> None:
        """Find the run by its tag, or make it."""
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name, self._artifacts)
        known = self._client.search_runs([experiment], f"tags.`collegium.run` = '{run}'")
        if known:
            self._known[run] = known[0].info.run_id
            self._client.update_run(self._known[run], "RUNNING")
            return
        made = self._client.create_run(experiment, tags={"collegium.run": run}, run_name=run)
        self._known[run] = made.info.run_id
        for key, value in parameters.items():
            self._client.log_param(self._known[run], key, value)

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        """A point each, all at once."""
        now = int(time.time() * 1000)
        points = [self._mlflow.entities.Metric(key, value, now, step) for key, value in values.items()]
        for start in range(0, len(points), 1000):
            self._client.log_batch(self._known[run], metrics=points[start : start + 1000])

    def release(self, run: str, folder: Path) -> None:
        """Artifacts of the run."""
        self._client.log_artifacts(self._known[run], str(folder), "release")

    def end(self, run: str, *, completed: bool) -> None:
        """Its status."""
        self._client.set_terminated(self._known[run], "FINISHED" if completed else "FAILED")


class Wandb:
    """A project; with WANDB_MODE=offline in the environment, files that `wandb sync` sends later.

    Args:
        project: Its name.
        folder: Where wandb keeps its files.
    """

    def __init__(self, project: str, folder: Path) -> None:
        self._wandb = import_module("wandb")
        self._project, self._folder = project, folder
        self._open: dict[str, Any] = {}

    def begin(self, run: str, name: str, parameters: Mapping[str, str]) -> None:
        """Take up the run by its id."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._open[run] = self._wandb.init(
            project=self._project,
            id=run,
            name=run,
            group=name,
            config=dict(parameters),
            dir=str(self._folder),
            resume="allow",
            reinit="create_new",
            settings=self._wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True),
        )
        self._open[run].define_metric("*", step_metric="round")

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        """One row, by its round."""
        self._open[run].log({"round": step, **values})

    def release(self, run: str, folder: Path) -> None:
        """An artifact of type `model`."""
        artifact = self._wandb.Artifact(f"release-{run}", type="model")
        artifact.add_dir(str(folder))
        self._open[run].log_artifact(artifact)

    def end(self, run: str, *, completed: bool) -> None:
        """Send or write what is left."""
        if run in self._open:
            self._open.pop(run).finish(exit_code=0 if completed else 1)
