"""Disk and permissions, and how a report is summed up."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from shared.doctor.findings import Finding, as_finding, summed_up, worst
from shared.doctor.machine import available_memory, check_disk, check_private, cores
from shared.errors import ConfigError

Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.mark.parametrize(("free", "verdict"), [(100e9, "ok"), (1.5e9, "warning"), (5e6, "error")])
def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, verdict: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, int(free)))
    found = check_disk(tmp_path / "not" / "yet", 10_000_000, "a run")
    assert (found.verdict, "10.0 MB" in found.text) == (verdict, True)


def test_the_disk_that_is_there(tmp_path: Path) -> None:
    assert check_disk(tmp_path, 2**60, "too much").verdict == "error"


def test_private_files(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "logs").mkdir()
    (folder / "logs" / "a.log").touch()
    for path, mode in ((folder, 0o700), (folder / "logs", 0o755), (folder / "logs" / "a.log", 0o644)):
        path.chmod(mode)
    assert check_private([folder, tmp_path / "none"]).verdict == "ok", "a closed folder closes what is in it"
    folder.chmod(0o755)
    found = check_private([folder])
    assert (found.verdict, str(folder) in found.text, "a.log" in found.text) == ("warning", True, True)
    (folder / "logs").chmod(0o700)
    assert "a.log" not in check_private([folder]).text
    key = tmp_path / "node.key"
    key.touch()
    key.chmod(0o640)
    assert check_private([key]).verdict == "warning"


def test_this_machine() -> None:
    assert cores() >= 1
    assert available_memory() > 0


def test_the_worst_verdict_counts() -> None:
    assert worst([]) == "ok"
    assert worst(["ok", "warning", "ok"]) == "warning"
    assert summed_up(["ok", "ok"]) == "Verdict: ready. Errors: 0, warnings: 0, ok: 2."
    assert summed_up(["ok", "warning"]).startswith("Verdict: review.")
    assert summed_up(["error", "warning"]).startswith("Verdict: blocked.")


def test_an_error_becomes_a_finding() -> None:
    found: list[Finding] = []
    with as_finding("settings", found):
        raise ConfigError("Expected another port.")
    assert found == [Finding("settings", "error", "Expected another port.")]
