"""What a benchmark finds, and how: its sides in turns, a figure of each every time, and the ratio of each turn.

A machine is never as fast twice, so both sides are measured one after the other, again and again, and what is told is
the ratio within a turn, with its spread.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, computed_field

from shared.process.console import announce

TURNS = 5
"""Of each benchmark, unless more are asked for."""
VERSIONS = ("collegium", "flwr", "torch", "transformers", "peft", "opacus", "numpy", "onnxruntime")
"""The distributions whose versions every result states, if they are installed."""


@dataclass(frozen=True)
class Asked:
    """What whoever starts a benchmark decides."""

    turns: int = TURNS
    """How often every side is measured."""
    data: Path | None = None
    """The folder of public data sets; without it the benchmarks that read text read the demonstration's."""
    small: bool = False
    """Sizes at which it takes seconds and its figures mean nothing: for tests."""


Cell = str | int | float | None
"""Of a table; None is shown as a dash."""


class Frozen(BaseModel):
    """Plain data that may be written to a file and read again."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


SIGNS = {"at least": "≥", "at most": "≤", "below": "<"}


class Goal(Frozen):
    """What the median of the ratios must reach."""

    kind: Literal["at least", "at most", "below"]
    value: float

    def reached(self, ratio: float) -> bool:
        """Whether a ratio is good enough."""
        match self.kind:
            case "at least":
                return ratio >= self.value
            case "at most":
                return ratio <= self.value
            case "below":
                return ratio < self.value

    def __str__(self) -> str:
        return f"{SIGNS[self.kind]} {self.value:g}"


class Spread(Frozen):
    """The least, the middle and the most of some figures."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """The spread of at least one value."""
        return cls(min=min(values), median=statistics.median(values), max=max(values))


class Comparison(Frozen):
    """Both sides' figures, turn by turn."""

    subject: str
    """Our side."""
    against: str
    """The other side."""
    unit: str
    """Of both sides' figures."""
    ours: list[float]
    theirs: list[float]
    goal: Goal | None = None
    """Of `ours / theirs`."""

    @property
    def ratios(self) -> list[float]:
        """Ours over theirs in each turn."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ratio(self) -> Spread:
        """Of the turns' ratios."""
        return Spread.of(self.ratios)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def reached(self) -> bool | None:
        """Whether the median ratio reaches the goal, if there is one."""
        return self.goal.reached(self.ratio.median) if self.goal else None


class Table(Frozen):
    """What else a benchmark measures: scores, memory, where the time goes."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


class Curves(Frozen):
    """A figure that changes along something: the megabytes of a process, round by round."""

    along: str
    unit: str
    values: dict[str, list[float]]
    """By what is measured; from the first on."""


class Findings(Frozen):
    """What a benchmark hands back."""

    comparisons: Sequence[Comparison] = ()
    tables: Sequence[Table] = ()
    curves: Curves | None = None


class Result(Findings):
    """The findings of a benchmark on a machine, as they are written to `docs/performance/NAME.json`."""

    name: str
    machine: dict[str, str | int | float]
    options: str = ""
    """Of the command beside the name, as somebody else would give them."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ratio(self) -> Spread | None:
        """Of the first comparison, if there is one."""
        return self.comparisons[0].ratio if self.comparisons else None


def in_turns(sides: Mapping[str, Callable[[], float]], turns: int) -> dict[str, list[float]]:
    """Let every side measure itself, one after the other, as many times; its figures by side. Says how far it is."""
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(1, turns + 1):
        for name, side in sides.items():
            figures[name].append(side())
            announce(f"Turn {turn} of {turns}, {name}: {figures[name][-1]:.3g}")
    return figures


def cpu_seconds(work: Callable[[], object]) -> float:
    """How long a piece of work in this process kept the processor."""
    started = time.process_time()
    work()
    return time.process_time() - started


def machine() -> dict[str, Any]:
    """Where a benchmark runs, as far as it matters to speed."""
    found: dict[str, Any] = {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
        "dtype": _dtype(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown"


def _dtype() -> str:
    """What `precision = "auto"` computes in."""
    import torch

    from client.train.precision import is_bfloat16

    return "bfloat16" if is_bfloat16(torch.device("cpu"), "auto") else "float32"
