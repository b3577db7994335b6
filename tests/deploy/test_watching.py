"""The dashboard and the alerts ask for metrics that there are, and each alert fires and does not."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
METRICS = {
    name
    for side in ("server", "client", "shared")
    for name in re.findall(r'"(collegium_\w+)"', (ROOT / side / "watching" / "metrics.py").read_text(encoding="utf-8"))
}
"""Of both sides; tests of each say that it tells them."""
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is absent")


def queried(text: str) -> set[str]:
    return set(re.findall(r"\bcollegium_\w+", text))


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    return found


def test_the_dashboard_is_one_that_grafana_takes(dashboard: dict[str, Any]) -> None:
    assert dashboard["schemaVersion"] >= 36  # of Grafana 9 and later
    assert (dashboard["title"], dashboard["uid"]) == ("Collegium", "collegium")
    assert "id" not in dashboard, "that is for the Grafana that it was exported from"
    identifiers = [panel["id"] for panel in dashboard["panels"]]
    assert len(identifiers) == len(set(identifiers))
    (variable,) = dashboard["templating"]["list"]
    assert (variable["type"], variable["name"]) == ("datasource", "datasource")
    for panel in panels(dashboard):
        assert panel["type"] in {"stat", "timeseries", "bargauge"}
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0


def test_no_panel_covers_another(dashboard: dict[str, Any]) -> None:
    taken = set[tuple[int, int]]()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        mine = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not mine & taken, panel["title"]
        assert max(x for x, _ in mine) < 24
        taken |= mine


def test_all_that_is_asked_for_is_told(dashboard: dict[str, Any]) -> None:
    asked = {name for panel in panels(dashboard) for target in panel["targets"] for name in queried(target["expr"])}
    assert len(asked) > 20
    assert asked <= METRICS
    assert queried((DEPLOY / "alerts.yml").read_text(encoding="utf-8")) <= METRICS


def test_the_alerts_that_a_federation_needs_are_there_and_each_is_tested_both_ways() -> None:
    alerts = re.findall(r"- alert: (\w+)", (DEPLOY / "alerts.yml").read_text(encoding="utf-8"))
    tested = (Path(__file__).parent / "alerts.test.yml").read_text(encoding="utf-8")
    assert {"NoRound", "InstitutionAbsent", "BudgetLow", "CertificateEnds", "DiskFull", "Restarts"} <= {
        alert.removeprefix("Collegium") for alert in alerts
    }
    for alert in alerts:
        assert f"name: {alert} fires\n" in tested
        assert f"name: {alert} does not fire\n" in tested


@pytest.mark.extra
@needs_promtool
def test_prometheus_takes_the_alerts_and_each_fires_and_does_not(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "alerts.yml", tmp_path)
    shutil.copy(Path(__file__).parent / "alerts.test.yml", tmp_path)
    for words in (("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")):
        done = subprocess.run(["promtool", *words], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.extra
@needs_promtool
def test_an_alert_that_would_not_fire_fails_this_test(tmp_path: Path) -> None:
    changed = (DEPLOY / "alerts.yml").read_text(encoding="utf-8").replace("rounds_missed >= 3", "rounds_missed >= 4")
    (tmp_path / "alerts.yml").write_text(changed)
    shutil.copy(Path(__file__).parent / "alerts.test.yml", tmp_path)
    done = subprocess.run(["promtool", "test", "rules", "alerts.test.yml"], cwd=tmp_path, capture_output=True)
    assert done.returncode != 0
