"""What a trial means: memory, cores, pace, uploads, budget, each well and not; and the numbers of the forecast."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from client.doctor import forecast as forecasts
from client.doctor.forecast import (
    check_budget,
    check_cores,
    check_memory,
    check_pace,
    check_upload,
    describe,
    foresee,
    judge_trial,
    needed_disk,
    try_round,
)
from client.doctor.trial import Spending, Trial
from client.institution import Data, Institution, Runtime
from client.policy import Policy
from shared.doctor.findings import Finding
from shared.federation import Federation

SPENDING = Spending(round=1.0, run=2.0, spent=0.5, after=2.4, allowed=3.0, delta=1e-5)
TRIAL = Trial(
    device="cpu",
    threads=1,
    tokens=1000,
    timed_tokens=500,
    train_seconds=9.0,
    score_seconds=1.0,
    largest_tokens=128,
    peak_bytes=5 * 10**8,
    gpu_peak_bytes=0,
    gpu_bytes=0,
    bytes_down=1000,
    bytes_up=300,
    kept_bytes=10,
    state_bytes=100,
)
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
MakeFederation = Callable[..., Federation]


def site(policy: Policy | None = None) -> Institution:
    """A site under a policy."""
    data = {"clauses": Data(train=Path("train.jsonl"))}
    return Institution(name="hospital", data=data, policy=policy or Policy(), runtime=Runtime(state=Path("/tmp")))


def test_the_numbers(tiny_federation: MakeFederation) -> None:
    federation = tiny_federation(rounds={"count": 6})
    found = foresee(replace(TRIAL, spending=SPENDING), federation, NOW)
    assert found.seconds_per_round == 10
    assert found.last_round == datetime(2026, 11, 29, 12, 1, tzinfo=UTC)
    assert (found.bytes_down_per_round, found.bytes_up_per_round) == (2000, 300)
    assert (found.epsilon_per_round, found.epsilon_after_all) == (1.0, 2.4)
    said = describe(found)
    assert "10.0 s a round, 2.0 kB down and 300 bytes up, epsilon 1 for one, 2.4 after all; begun now" in said
    assert said.endswith("2026-11-29 12:01.")
    assert "epsilon" not in describe(foresee(TRIAL, federation, NOW))
    assert needed_disk(TRIAL, federation) == forecasts.LOGS + 4 * 100 + 3 * 6 * 10


def test_all_that_is_judged(tiny_federation: MakeFederation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "available_memory", lambda: 10**12)
    federation, trial = tiny_federation(), replace(TRIAL, spending=SPENDING)
    found = list(judge_trial(trial, foresee(trial, federation, NOW), site(), federation))
    assert [one.check for one in found] == ["memory", "cores", "disk", "pace", "upload", "budget"]
    assert {one.verdict for one in found if one.check != "disk"} == {"ok"}


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "available_memory", lambda: 10**9)
    assert check_memory(TRIAL).verdict == "ok"
    assert check_memory(replace(TRIAL, peak_bytes=9 * 10**8)).verdict == "warning"
    on_gpu = replace(TRIAL, gpu_bytes=10**9, gpu_peak_bytes=10**8)
    assert check_memory(on_gpu).verdict == "ok"
    assert check_memory(replace(on_gpu, gpu_peak_bytes=9 * 10**8)).verdict == "warning"


def test_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "cores", lambda: 2)
    assert check_cores(replace(TRIAL, threads=2)).verdict == "ok"
    assert check_cores(replace(TRIAL, threads=3)).verdict == "warning"
    assert check_cores(replace(TRIAL, threads=3, device="NVIDIA H200")).verdict == "ok"


@pytest.mark.parametrize(("seconds", "verdict"), [(100.0, "ok"), (1000.0, "warning"), (1900.0, "error")])
def test_pace(tiny_federation: MakeFederation, seconds: float, verdict: str) -> None:
    federation = tiny_federation(rounds={"deadline_seconds": 1800.0})
    slow = foresee(replace(TRIAL, train_seconds=seconds), federation, NOW)
    assert check_pace(slow, federation).verdict == verdict


def test_upload() -> None:
    assert check_upload(TRIAL, site()).verdict == "ok"
    assert check_upload(TRIAL, site(Policy(max_upload_bytes=300))).verdict == "ok"
    assert check_upload(TRIAL, site(Policy(max_upload_bytes=299))).verdict == "error"


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "ok"),
        ({"after": 3.5}, "warning"),  # some rounds of it are left
        ({"after": 6.0, "spent": 3.0}, "error"),
        ({"after": 9.0, "run": 8.0}, "error"),
    ],
)
def test_budget(tiny_federation: MakeFederation, change: dict[str, Any], verdict: str) -> None:
    assert check_budget(replace(SPENDING, **change), tiny_federation()).verdict == verdict


@pytest.mark.parametrize(
    ("code", "printed", "complained", "said"),
    [
        (-9, "", "", "want of memory"),
        (1, "", "Traceback\nRuntimeError: bad kernel", "RuntimeError: bad kernel"),
        (0, '{"out_of_memory": true}', "", "does not fit the GPU"),
        (0, '{"error": "Expected a rank."}', "", "Expected a rank."),
    ],
)
def test_a_trial_that_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, printed: str, complained: str, said: str
) -> None:
    ended = subprocess.CompletedProcess([], code, printed, complained)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    found = try_round(tmp_path / "institution.toml", None, 0)
    assert isinstance(found, Finding)
    assert (found.check, found.verdict, said in found.text) == ("memory", "error", True)
