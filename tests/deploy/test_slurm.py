"""The batch script is what bash accepts, and hands on what a job must hand on."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "deploy" / "slurm" / "collegium.sbatch"


def run(tmp_path: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The script, with a program in the place of `collegium` that tells its arguments and ends with 7."""
    (program := tmp_path / "collegium").write_text(
        f"#!{sys.executable}\nimport os, sys\nprint(os.environ['OMP_NUM_THREADS'], *sys.argv[1:])\nsys.exit(7)\n"
    )
    program.chmod(0o700)
    known = {"PATH": os.environ["PATH"], "COLLEGIUM": str(program)}
    return subprocess.run(["bash", str(SCRIPT)], env=known | environment, capture_output=True, text=True, timeout=30)


def test_bash_accepts_it() -> None:
    assert subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True, text=True, timeout=30).stderr == ""


def test_one_round_a_job_one_job_at_a_time() -> None:
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)", SCRIPT.read_text(), flags=re.MULTILINE))
    assert options["array"].endswith("%1"), "a key is for one daemon"
    assert options["signal"].startswith("B:TERM@"), "the batch shell's process, which is the daemon"
    assert options["nodes"] == options["ntasks"] == "1"
    assert re.search("^exec .* client up --once ", SCRIPT.read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("wait", ["", "60"])
def test_what_is_given_reaches_the_daemon_and_its_exit_code_the_cluster(tmp_path: Path, wait: str) -> None:
    more = {"WAIT": wait} if wait else {}
    result = run(tmp_path, INSTITUTION="/a b/institution.toml", SLURM_CPUS_PER_TASK="8", **more)
    assert result.stdout.strip() == f"8 client up --once --wait {wait or 3600} /a b/institution.toml"
    assert result.returncode == 7


def test_it_says_what_it_needs(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.returncode != 0
    assert "INSTITUTION" in result.stderr
