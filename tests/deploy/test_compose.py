"""Image and Compose file: what can be checked without a daemon."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from collegium.__main__ import load

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "deploy" / "compose"


@pytest.fixture
def services() -> dict[str, Any]:
    """The services, anchors merged."""
    return dict(yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"])


def test_services_are_hardened_and_data_are_only_read(services: dict[str, Any]) -> None:
    assert services.keys() == {"coordinator", "institution"}
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"] == "10001"
    assert services["coordinator"]["ports"] == ["8443:8443"]
    assert "ports" not in services["institution"]
    assert "./data:/srv/collegium:ro" in services["institution"]["volumes"]


def test_commands_are_verbs(services: dict[str, Any]) -> None:
    for service in services.values():
        group, verb, _ = service["command"]
        assert verb in getattr(load(group), "commands")  # noqa: B009


def test_the_image_is_built_of_files_that_are_there_by_a_user_of_its_own(services: dict[str, Any]) -> None:
    build = services["coordinator"]["build"]
    assert (FOLDER / build["context"]).resolve() == ROOT
    dockerfile = ROOT / build["dockerfile"]
    text = re.sub(r"\\\n\s*", "", dockerfile.read_text())
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    known = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert {step for step, _ in steps} <= known
    for step, rest in steps:
        if step == "COPY" and not rest.startswith("--from"):
            assert all((ROOT / source).exists() for source in rest.split()[:-1])
        if step in ("ENTRYPOINT", "CMD"):
            assert isinstance(json.loads(rest), list)
        if step == "FROM":
            assert re.match(r"python:3\.\d+-slim-\w+", rest)
    assert ["USER", "10001"] in steps
    packages = re.findall(r'"(\w+)"', re.findall(r"packages = (\[.*\])", (ROOT / "pyproject.toml").read_text())[0])
    assert all(["COPY", f"{package} {package}"] in steps for package in packages)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing() -> None:
    result = subprocess.run(["hadolint", str(FOLDER / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, "")
