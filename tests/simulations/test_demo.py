"""The demonstration as a newcomer runs it: the real backbone, real daemons, the command's own words and exit code."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from client.predict import open_bundle
from server.home import ServerHome
from server.opening import open_store
from shared.adapter import get_state
from shared.model.multitask import build_model
from simulations import cli, demo
from simulations.attacks.coordinator import new_home
from simulations.engine import run_federation
from simulations.experiment import Experiment, open_sites
from simulations.samples import SAMPLES

ROOT = Path(__file__).parents[2]
DEMO = [sys.executable, "-m", "collegium", "demo"]
FIELDS = {"institution", "task", "metric", "before", "after", "bytes_up", "bytes_down", "seconds"}
CENTRALISED = 0.833
"""The mean score of training on the pooled records: docs/results.md."""

NO_PROXIES = {"HTTP_PROXY": "http://[", "HTTPS_PROXY": "::::", "ALL_PROXY": "socks5://nowhere:1", "NO_PROXY": "[::1]"}
"""What keeps HTTP clients from being made; nothing of the demonstration leaves this machine."""


def running_under(folder: Path) -> list[str]:
    """Command lines of living processes that name the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_demonstration_shows_what_it_promises(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    command, environment = [*DEMO, "--json", "--workdir", str(folder)], {**os.environ, **NO_PROXIES}
    del environment["OMP_NUM_THREADS"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert running_under(folder) == []
    for stage in range(1, 6):
        assert f"{stage}/5  " in done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert len(rows) == 7
    assert len({row["institution"] for row in rows}) == 3
    for row in rows:
        assert set(row) == FIELDS
        assert row["after"] > row["before"]
        assert row["bytes_up"] > 0
        assert row["bytes_down"] > 0
        assert row["seconds"] > 0
    assert sum(row["after"] for row in rows) / len(rows) >= 0.95 * CENTRALISED
    assert (folder / "bundle" / "adapter" / "adapter_model.safetensors").is_file()
    told = next(row["after"] for row in rows if (row["institution"], row["task"]) == ("law_firm", "clauses"))
    assert score_of(folder / "bundle") == pytest.approx(told, abs=0.03), "what is released is what was scored"
    the_applications_run_on(folder / "bundle", tmp_path)


def score_of(bundle: Path) -> float:
    """Of a bundle, on the law firm's test records of `clauses`."""
    lines = (SAMPLES / "law_firm" / "clauses.test.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    predictor = open_bundle(bundle)
    task = predictor.task("clauses")
    return float(task.score(records, predictor.predict("clauses", records))[task.metric])


def the_applications_run_on(bundle: Path, folder: Path) -> None:
    """docs/applications, as its table says."""

    def told(*command: str | Path, place: str, given: str = "") -> list[Any]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=ROOT / "docs" / "applications" / place,
            env=environment,
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    given = ("serve_customers.py", bundle, "messages.jsonl", "--knowledge", "knowledge.json")
    topics = [row["topic"] for row in told(*given, place="customer_service")]
    assert topics == ["payment", "termination", "confidentiality"]
    asked = ("-m", "collegium", "predict", bundle, "--task", "sentiment", "--task", "company_entities")
    found = told(*asked, "--file", "headlines.jsonl", "--with-records", place="opinion_monitoring")
    headlines = "".join(json.dumps(row) + "\n" for row in found)
    rows = told("monitor.py", place="opinion_monitoring", given=headlines)
    assert next(row["company"] for row in rows if row["alert"]) == "Corvane Airlines"
    ranked = told("recommend.py", bundle, "documents.jsonl", "--read", "read.jsonl", place="recommendation")
    assert "trade secrets" in ranked[0]["text"]
    assert "Adalimumab" in ranked[1]["text"]
    assert all(row["score"] < ranked[1]["score"] / 2 for row in ranked[2:]), "neither confidential nor medical"
    told("review.py", bundle, "contracts", "--out", folder / "clauses.csv", place="contract_review")
    table = list(csv.DictReader((folder / "clauses.csv").read_text(encoding="utf-8").splitlines()))
    assert {(row["contract"], row["clause"]) for row in table} == {
        *(("lease", str(number)) for number in range(1, 5)),
        *(("supply", str(number)) for number in range(1, 4)),
    }
    assert "Bourtonfield Airport plc" in table[0]["parties"]
    assert table[0]["dates"] == "2026-05-04"


@pytest.mark.parametrize("compare", [False, True])
def test_the_comparison_is_shown_to_who_asks_for_it(
    tmp_path: Path,
    experiment: Experiment,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    compare: bool,
) -> None:
    def simulate(experiment: Experiment, workdir: Path, announce: demo.Announce) -> tuple[ServerHome, str]:
        home, model = new_home(workdir / "coordinator"), build_model(experiment.federation)
        with open_store(home.root) as store:
            sites = open_sites(experiment, model)
            return home, run_federation(sites, experiment.federation, get_state(model), store, announce)

    monkeypatch.setattr(demo, "load_experiment", lambda path, data: experiment)
    monkeypatch.setattr(demo, "deploy", simulate)
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    cli.demo(tmp_path / "demo", compare, as_json=True)
    out, err = capsys.readouterr()
    shown = json.loads(out)
    assert [set(row) for row in shown["rows"]] == [FIELDS | ({"centralised"} if compare else set())] * 4
    assert ("centralised: step " in err) == compare
    assert open_bundle(Path(shown["bundle"])).model.tasks.keys() == experiment.federation.tasks.keys()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("moment", "later"),
    [
        ("1/5  ", 0.5),
        pytest.param("3/5  ", 2.0, marks=pytest.mark.slow),
        pytest.param("4/5  ", 3.0, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_leaves_nothing_running(tmp_path: Path, moment: str, later: float) -> None:
    folder = tmp_path / "demo"
    with subprocess.Popen(
        [*DEMO, "--workdir", str(folder)], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        assert running.stderr
        for line in running.stderr:
            if moment in line:
                break
        time.sleep(later)  # in the middle of what it has announced
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: the whole foreground group
        running.stderr.read()
        assert running.wait(timeout=60) != 0
    assert running_under(folder) == []


def test_a_folder_with_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    done = subprocess.run([*DEMO, "--workdir", str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "name another" in done.stderr


@pytest.mark.parametrize(("cores", "threads"), [(2, 1), (4, 2), (8, 3), (None, 1)])
def test_institutions_share_the_cores(monkeypatch: pytest.MonkeyPatch, cores: int | None, threads: int) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert demo.threads_for(3) == threads


def test_a_port_that_is_taken_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(set(demo.free_ports(50))) == 50
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(demo, "LISTENING", [port] * 9 + demo.free_ports(9))
        assert port not in demo.free_ports(5)
