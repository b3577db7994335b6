"""The units are what systemd accepts, and let a daemon do little."""

import re
import shutil
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "deploy" / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
MOST_EXPOSED = 2.0
"""Of 10, as `systemd-analyze security` counts; a unit without hardening has 9.6."""
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def analyzed(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)


@pytest.fixture(params=UNITS, ids=lambda unit: unit.name)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit whose program and user are there."""
    text = request.param.read_text().replace("/opt/collegium/bin/collegium", sys.executable)
    copy: Path = tmp_path / request.param.name
    copy.write_text(re.sub("^(User|Group)=collegium$", r"\1=root", text, flags=re.MULTILINE))
    return copy


@needs_systemd
def test_systemd_accepts_it(unit: Path) -> None:
    result = analyzed("verify", "--man=no", str(unit))
    assert (result.returncode, [line for line in result.stderr.splitlines() if unit.name in line]) == (0, [])


@needs_systemd
def test_it_may_do_little(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("=root", "=nobody"))
    result = analyzed("security", "--offline=true", "--no-pager", str(unit))
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", result.stdout)
    assert found, result.stdout + result.stderr
    assert float(found[1]) <= MOST_EXPOSED


@pytest.mark.parametrize("path", UNITS, ids=lambda unit: unit.name)
def test_what_is_promised_stands_in_it(path: Path) -> None:
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(path)
    service = dict(parser["Service"])
    promised = {"Type": "notify", "User": "collegium", "NoNewPrivileges": "yes", "ProtectSystem": "strict"}
    assert promised.items() <= service.items()
    assert int(service["WatchdogSec"]) >= 30
    verbs = {"collegium-server.service": "server up", "collegium-client.service": "client up"}
    assert f"/bin/collegium {verbs[path.name]} /var/lib/collegium/" in service["ExecStart"]


def test_both_sides_have_one() -> None:
    assert [unit.name for unit in UNITS] == ["collegium-client.service", "collegium-server.service"]
