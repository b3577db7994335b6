"""`collegium bench`: every benchmark of the table runs, and no other."""

import json
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from collegium.__main__ import app
from shared.errors import ConfigError
from simulations.benchmarks import table
from simulations.benchmarks.measured import Asked, Comparison, Findings, Table
from simulations.benchmarks.table import BENCHMARKS, Benchmark, run

MINUTES = {"door", "optimize", "round_overhead", "serving", "serving_memory", "simulation", "start"}
"""Benchmarks that take more than a few seconds however small."""


NEEDS = {
    "frozen_pass": "onnxruntime",
    "optimize": "onnxscript",
    "serving": "locust",
    "serving_memory": "locust",
    "simulation": "pfl",
}
"""Benchmarks that measure with a library, or against one, that need not be there."""


def marks(name: str) -> list[pytest.MarkDecorator]:
    """Of a benchmark."""
    return [pytest.mark.slow] * (name in MINUTES) + [pytest.mark.extra] * (name in NEEDS)


@pytest.mark.parametrize(  # but for memory: see test_memory.py
    "name", [pytest.param(name, marks=marks(name)) for name in BENCHMARKS if name != "memory"]
)
def test_every_benchmark_measures(name: str) -> None:
    if name in NEEDS and find_spec(NEEDS[name]) is None:  # Locust, imported, replaces this process's sockets
        pytest.skip(f"needs {NEEDS[name]}")
    result = run(name, Asked(turns=1, small=True))
    assert result.name == name
    assert result.comparisons or result.tables or result.curves
    for comparison in result.comparisons:
        assert len(comparison.ours) == len(comparison.theirs) == 1
        assert min(comparison.ours + comparison.theirs) > 0
    for found in result.tables:
        assert {len(row) for row in found.rows} == {len(found.columns)}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_says_how_it_measures(name: str) -> None:
    assert len(BENCHMARKS[name].text.split()) > 20


def test_an_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=f"among {', '.join(BENCHMARKS)}, not 'speed'; name one"):
        run("speed", Asked())


@pytest.fixture
def trivial(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of one benchmark, in which two is beside one."""

    def measure(asked: Asked) -> Findings:
        two = Comparison(
            subject="two", against="one", unit="units", ours=[2.0] * asked.turns, theirs=[1.0] * asked.turns
        )
        return Findings(comparisons=[two], tables=[Table(title="more", columns=["what"], rows=[["else"]])])

    monkeypatch.setattr(table, "import_module", lambda name: SimpleNamespace(findings=measure))
    monkeypatch.setattr(table, "BENCHMARKS", {"trivial": Benchmark("two beside one", "nowhere")})


@pytest.mark.usefixtures("trivial")
def test_the_command_prints_what_was_found() -> None:
    done = CliRunner().invoke(app, ["bench", "trivial", "--turns", "3", "--json"])
    found = json.loads(done.stdout)
    assert (found["name"], found["ratio"]) == ("trivial", {"min": 2.0, "median": 2.0, "max": 2.0})
    assert found["comparisons"][0]["ours"] == [2.0] * 3
    shown = CliRunner().invoke(app, ["bench", "trivial"]).stdout
    assert "2 to 2" in shown
    assert "else" in shown


@pytest.mark.usefixtures("trivial")
def test_the_command_lists_what_there_is() -> None:
    assert "two beside one" in CliRunner().invoke(app, ["bench"]).stdout
    assert json.loads(CliRunner().invoke(app, ["bench", "--json"]).stdout) == {"trivial": "two beside one"}
