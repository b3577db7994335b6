"""Metrics in Prometheus' text format, worked out whenever somebody asks: nothing is counted on the side."""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, Metric, generate_latest

from shared.process.memory import resident

__all__ = ["CONTENT_TYPE_LATEST", "PATH", "Metric", "Process", "exposition", "family", "machine", "processes"]

PATH = "/metrics"
Values = Mapping[Any, float] | float
"""By the values of labels, in their order, or a single one."""
_TICKS = os.sysconf("SC_CLK_TCK")


def family(name: str, text: str, values: Values, *labels: str, counter: bool = False) -> Metric:
    """One metric with its values.

    Args:
        name: With its unit; a counter's ends in `_total`.
        text: What it is, for people.
        values: By the values of its labels, or a single one.
        labels: Their names.
        counter: Whether it only ever grows.
    """
    made = Metric(name.removesuffix("_total") if counter else name, text, "counter" if counter else "gauge")
    for key, value in (values if isinstance(values, Mapping) else {(): values}).items():
        made.add_sample(name, dict(zip(labels, key, strict=True)), value)
    return made


def exposition(families: Iterable[Metric]) -> bytes:
    """The text that Prometheus reads, of type CONTENT_TYPE_LATEST; a metric without values is left out."""

    class Found:
        def collect(self) -> Iterator[Metric]:
            return (each for each in families if each.samples)

    return generate_latest(Found())


def machine(folder: Path, running: Mapping[str, "Process"]) -> list[Metric]:
    """The disk of a folder, and the processes of its daemon.

    Args:
        folder: What is kept lies there.
        running: See `processes`.
    """
    disk = shutil.disk_usage(folder)
    memory = {(name,): float(process.memory) for name, process in running.items()}
    started = {(name,): process.started for name, process in running.items()}
    return [
        family("collegium_disk_free_bytes", "Free on the disk of the folder.", disk.free),
        family("collegium_disk_size_bytes", "Size of the disk of the folder.", disk.total),
        family(
            "collegium_process_resident_memory_bytes",
            "Main memory of a process and of those that it has started.",
            memory,
            "process",
        ),
        family(
            "collegium_process_start_time_seconds",
            "When a process was started; it changes with every restart.",
            started,
            "process",
        ),
    ]


@dataclass(frozen=True)
class Process:
    """One of a daemon's processes."""

    memory: int
    """Bytes of it and of all that it has started in its session."""
    started: float
    """Seconds since 1970."""


def processes(daemon: int) -> dict[str, Process]:
    """A daemon and the modules that it has started as children, by their last name."""
    boot, page = _boot_time(), os.sysconf("SC_PAGE_SIZE")
    sessions: dict[int, int] = {}
    found: dict[str, tuple[int, float]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            pid, parent, session, memory = int(entry.name), int(fields[1]), int(fields[3]), int(fields[21]) * page
            sessions[session] = sessions.get(session, 0) + memory
            started = boot + int(fields[19]) / _TICKS
            if pid == daemon:
                found["daemon"] = pid, started
            elif parent == daemon and (name := _module((entry / "cmdline").read_bytes())):
                found[name] = pid, started
    return {
        name: Process(resident(pid) if name == "daemon" else sessions.get(pid, 0), started)
        for name, (pid, started) in sorted(found.items())
    }


def _module(command: bytes) -> str:
    """The last name of the module that Python runs, of those that are Collegium's; empty for another program."""
    words = command.decode(errors="replace").split("\0")
    named = words[words.index("-m") + 1 :][:2] if "-m" in words else []  # itself, or by `shared.process.program`
    return next((name.rpartition(".")[2] for name in named if name.startswith(("server.", "client."))), "")


def _boot_time() -> float:
    lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("btime ")))
