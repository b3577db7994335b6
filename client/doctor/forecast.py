"""What a run would take of this machine and cost its data, from a piece of a round that was tried on it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.institution import Institution
from client.round.keep import RUNS
from shared.doctor.findings import Finding
from shared.doctor.machine import available_memory, check_disk, cores, size
from shared.errors import LONGEST_LINE, plain
from shared.federation import Federation
from shared.process.flower import python_environment

if TYPE_CHECKING:
    from client.doctor.trial import Spending, Trial

FULL = 0.8
"""Share of the memory that is left above which it is spoken of."""
LOGS = 40 * 2**20
"""Bytes of the logs of both processes, with what was before (`shared.process.supervisor`)."""
PLACES = 4
"""How many times adapter and heads lie in the state folder beside what rounds leave: the place within a round with its
optimizer, and the site's own model."""


@dataclass(frozen=True)
class Forecast:
    """What is to come if the run began now, at this site's pace."""

    seconds_per_round: float
    """Training and scoring; neither waiting for others nor the network."""
    rounds: int
    bytes_down_per_round: int
    """What is received to train and to score."""
    bytes_up_per_round: int
    epsilon_per_round: float | None
    epsilon_after_all: float | None
    """Of these data, with what they have spent before."""
    last_round: datetime
    """When it would be over."""


def try_round(path: Path, data: Path | None, threads: int) -> "Trial | Finding":
    """Try a piece of a round in a process of its own; what went wrong as a finding.

    Args:
        path: `institution.toml`.
        data: As `client.institution.load_institution`.
        threads: Of the processor; 0 leaves the choice to PyTorch.
    """
    from client.doctor.trial import parse_trial

    environment = {**os.environ, **python_environment(), **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    ended = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "client.doctor.trial",
            str(path.resolve()),
            *([str(data.resolve())] if data else []),
        ],
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if ended.returncode == -9:
        return _too_little("The machine ended the trial of a step for want of memory.")
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or [f"it ended with {ended.returncode}"])[-1]
        return Finding("memory", "error", f"A step on the largest batch failed: {plain(last, LONGEST_LINE)}.")
    found = parse_trial(ended.stdout)
    if found is None:
        return _too_little("A step on the largest batch does not fit the GPU's memory.")
    return Finding("memory", "error", found) if isinstance(found, str) else found


def foresee(trial: "Trial", federation: Federation, now: datetime) -> Forecast:
    """What a whole run takes."""
    seconds, rounds = trial.train_seconds + trial.score_seconds, federation.rounds.count
    spending = trial.spending
    return Forecast(
        seconds_per_round=seconds,
        rounds=rounds,
        bytes_down_per_round=2 * trial.bytes_down,
        bytes_up_per_round=trial.bytes_up,
        epsilon_per_round=spending.round if spending else None,
        epsilon_after_all=spending.after if spending else None,
        last_round=now + timedelta(seconds=seconds * rounds),
    )


def judge_trial(
    trial: "Trial", forecast: Forecast, institution: Institution, federation: Federation
) -> Iterator[Finding]:
    """What the trial and the forecast mean for this site."""
    yield check_memory(trial)
    yield check_cores(trial)
    yield check_disk(institution.runtime.state, needed_disk(trial, federation), "a run")
    yield check_pace(forecast, federation)
    yield check_upload(trial, institution)
    if trial.spending:
        yield check_budget(trial.spending, federation)


def check_memory(trial: "Trial") -> Finding:
    """Whether a step on the largest batch leaves room."""
    free = available_memory()
    text = (
        f"A step on the largest batch ({trial.largest_tokens} sub-tokens) took {size(trial.peak_bytes)} of main memory "
        f"with all else; {size(free)} are free"
    )
    full = trial.peak_bytes > FULL * free
    if trial.gpu_bytes:
        text += f", and {size(trial.gpu_peak_bytes)} of the GPU's {size(trial.gpu_bytes)}"
        full = full or trial.gpu_peak_bytes > FULL * trial.gpu_bytes
    if full:
        return Finding("memory", "warning", f"{text}.", "Use a machine with more, or agree on fewer batch_tokens.")
    return Finding("memory", "ok", f"{text}.")


def check_cores(trial: "Trial") -> Finding:
    """What computes here."""
    here = cores()
    text = f"Training ran on {trial.device} with {trial.threads} threads; {here} processor cores may be used."
    if trial.device == "cpu" and trial.threads > here:
        return Finding("cores", "warning", text, "Set runtime.threads to at most that many: more only wait.")
    return Finding("cores", "ok", text)


def needed_disk(trial: "Trial", federation: Federation) -> int:
    """Bytes that the state folder grows by."""
    return LOGS + PLACES * trial.state_bytes + RUNS * federation.rounds.count * trial.kept_bytes


def check_pace(forecast: Forecast, federation: Federation) -> Finding:
    """Whether a round is over before the coordinator stops waiting."""
    deadline, seconds = federation.rounds.deadline_seconds, forecast.seconds_per_round
    text = f"A round takes this site about {_duration(seconds)}; the coordinator waits {_duration(deadline)}"
    advice = "Agree on a longer rounds.deadline_seconds, or on training.max_seconds; or use a faster machine."
    if seconds > deadline:
        return Finding("pace", "error", f"{text}.", advice)
    if seconds > deadline / 2:
        return Finding("pace", "warning", f"{text}, and another program may make it longer.", advice)
    return Finding("pace", "ok", f"{text}.")


def check_upload(trial: "Trial", institution: Institution) -> Finding:
    """Whether the site's policy lets an update of that size out."""
    most = institution.policy.max_upload_bytes
    text = f"An update has about {size(trial.bytes_up)}"
    if most is not None and trial.bytes_up > most:
        advice = "Raise it, or agree on another wire.up or a lower rank."
        return Finding("upload", "error", f"{text}, more than policy.max_upload_bytes ({size(most)}).", advice)
    return Finding("upload", "ok", f"{text}{'' if most is None else f', of {size(most)} that the policy allows'}.")


def check_budget(spending: "Spending", federation: Federation) -> Finding:
    """Whether the budget of these data lasts for all rounds."""
    rounds = federation.rounds.count
    text = (
        f"These data have spent epsilon {spending.spent:.3g} of {spending.allowed:g} (delta {spending.delta:g}); after "
        f"the {rounds} rounds of another run it is {spending.after:.3g}"
    )
    if spending.after > spending.allowed * 1.001:
        return Finding(
            "budget",
            "warning" if spending.run <= spending.allowed and spending.spent < spending.allowed else "error",
            f"{text}: the budget ends before the run.",
            "Approve more (policy.max_epsilon), agree on fewer rounds or a smaller epsilon, or stay away.",
        )
    return Finding("budget", "ok", f"{text}.")


def forecast_as_json(forecast: Forecast) -> dict[str, Any]:
    """As plain data."""
    return {**asdict(forecast), "last_round": forecast.last_round.isoformat(timespec="seconds")}


def describe(forecast: Forecast) -> str:
    """One line for people."""
    parts = [
        f"{_duration(forecast.seconds_per_round)} a round",
        f"{size(forecast.bytes_down_per_round)} down and {size(forecast.bytes_up_per_round)} up",
    ]
    if forecast.epsilon_per_round is not None:
        parts.append(f"epsilon {forecast.epsilon_per_round:.3g} for one, {forecast.epsilon_after_all:.3g} after all")
    return (
        f"Forecast of {forecast.rounds} rounds at this site's pace: {', '.join(parts)}; begun now, the last one is "
        f"over at {forecast.last_round:%Y-%m-%d %H:%M}."
    )


def _too_little(what: str) -> Finding:
    advice = "Use a machine with more memory, or agree on fewer training.batch_tokens."
    return Finding("memory", "error", what, advice)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
