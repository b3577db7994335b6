"""What the agreed rounds would take here: bytes over the network, checkpoints on disk, and until when."""

import statistics
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from server.home import ServerHome
from server.runs.status import LATELY
from server.store import Store, rounds, runs
from shared import codec
from shared.adapter import factor_of, is_received, is_sent
from shared.codec import Arrays
from shared.doctor.findings import Finding
from shared.doctor.machine import check_disk, size
from shared.federation import Federation
from shared.model.backbone import beside
from shared.model.initial import initial_state

LOGS = 80 * 2**20
"""Bytes of the logs of all processes, with what was before."""
MOMENTS = {"none": 0, "fedavgm": 1, "fedadagrad": 2, "fedadam": 2, "fedyogi": 2}
"""Arrays that each server optimizer keeps beside every parameter."""
HIDDEN = 8
"""Bytes of a value under secure aggregation."""


@dataclass(frozen=True)
class Forecast:
    """What a run under the agreement takes."""

    rounds: int
    bytes_down_per_round: int
    """To all institutions, for training and for scoring."""
    bytes_up_per_round: int
    disk_bytes: int
    """Of all checkpoints, and of messages and logs."""
    seconds_per_round: float | None
    """As the last rounds under this agreement took; None where there were none."""
    last_round: datetime | None


def foresee(home: ServerHome, federation: Federation, store: Store | None, now: datetime) -> Forecast:
    """Measure the agreement's state, made as a run begins, as it is stored and encoded.

    Raises:
        BackboneError, ConfigError: As `shared.model.initial.initial_state`.
    """
    state = initial_state(federation, backbone=beside(federation.backbone.name, home.federation_file))
    method, wire, institutions = federation.method, federation.wire, len(federation.rounds.institutions)
    received = {name: array for name, array in state.items() if is_received(name, method)}
    sent = {name: array for name, array in state.items() if is_sent(name, method, 1)}
    controlled = 2 if federation.training.scaffold else 1
    folded = _folded(federation, state)
    down = len(codec.encode(received, wire.coding_down, np.random.default_rng(0))) * controlled + folded
    if federation.secure_aggregation:
        up = sum(array.size for array in sent.values()) * HIDDEN
    else:
        up = len(codec.encode(sent, wire.coding_up, np.random.default_rng(0))) * controlled
    checkpoint = _size(state) * (1 + MOMENTS[federation.server_optimizer.type] + controlled - 1) + 2 * folded
    seconds = _seconds(federation, store)
    count = federation.rounds.count
    return Forecast(
        rounds=count,
        bytes_down_per_round=2 * down * institutions,
        bytes_up_per_round=up * institutions,
        disk_bytes=checkpoint * (count + 1) + (2 * down + up) * institutions + LOGS,
        seconds_per_round=seconds,
        last_round=now + timedelta(seconds=seconds * count) if seconds else None,
    )


def check_forecast(home: ServerHome, forecast: Forecast) -> Finding:
    """Whether the disk has room for the run."""
    return check_disk(home.checkpoints, forecast.disk_bytes, f"a run of {forecast.rounds} rounds")


def forecast_as_json(forecast: Forecast) -> dict[str, Any]:
    """As plain data."""
    last = forecast.last_round
    return {**asdict(forecast), "last_round": last and last.isoformat(timespec="seconds")}


def describe(forecast: Forecast) -> str:
    """One line for people."""
    text = (
        f"Forecast of {forecast.rounds} rounds, with all institutions at it and holding all tasks: "
        f"{size(forecast.bytes_down_per_round)} sent and {size(forecast.bytes_up_per_round)} received a round, "
        f"{size(forecast.disk_bytes)} on disk after all"
    )
    if forecast.seconds_per_round is None or forecast.last_round is None:
        return f"{text}; how long a round takes, the slowest institution's own doctor says."
    return (
        f"{text}; {forecast.seconds_per_round:.1f} s a round as before: begun now, the last one is over at "
        f"{forecast.last_round:%Y-%m-%d %H:%M}."
    )


def _seconds(federation: Federation, store: Store | None) -> float | None:
    """Of the last rounds under this agreement."""
    for row in reversed(store.rows(runs) if store else []):
        if store and row["digest"] == federation.digest and (done := store.rows(rounds, row["run"])):
            return statistics.fmean(one["seconds"] for one in done[-LATELY:])
    return None


def _folded(federation: Federation, state: Arrays) -> int:
    """About how many bytes a round's step of the frozen weights has: the others' factors (`fedex`)."""
    if not federation.method.folds:
        return 0
    others = len(federation.rounds.institutions) - 1
    return sum(array.size for name, array in state.items() if factor_of(name)) * others * 2


def _size(state: Arrays) -> int:
    return sum(array.nbytes for array in state.values())
