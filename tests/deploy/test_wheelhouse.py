"""A machine without an index is served by a folder of wheels."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_script_is_one_that_the_shell_understands() -> None:
    script = ROOT / "scripts" / "wheelhouse"
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=30)
    bare = subprocess.run([str(script)], capture_output=True, text=True, timeout=30)
    assert bare.returncode == 1
    assert "usage: scripts/wheelhouse FOLDER" in bare.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    "COLLEGIUM_WHEELHOUSE" not in os.environ, reason="downloads 2.3 GB; COLLEGIUM_WHEELHOUSE=1 has it run"
)
def test_it_installs_without_an_index(tmp_path: Path) -> None:
    reach = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--dest",
        str(tmp_path / "probe"),
        "typing-extensions",
    ]
    if subprocess.run(reach, capture_output=True, timeout=120).returncode:
        pytest.skip("no package index is within reach")
    wheels = tmp_path / "wheels"
    subprocess.run([str(ROOT / "scripts" / "wheelhouse"), str(wheels)], check=True, timeout=1500)
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=wheels, check=True, timeout=120)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    offline = ["install", "--no-index", "--find-links", str(wheels), "collegium"]
    subprocess.run([python, "-m", "pip", *offline], check=True, timeout=900)
    said = subprocess.run(
        [tmp_path / "venv" / "bin" / "collegium", "--version"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert said.stdout.startswith("collegium ")
