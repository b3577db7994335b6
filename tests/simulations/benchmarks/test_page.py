"""docs/performance.md and its plots are what the kept results say."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from simulations.benchmarks import page
from simulations.benchmarks.measured import Cell, Comparison, Curves, Goal, Result, Table
from simulations.benchmarks.table import BENCHMARKS

MACHINE: dict[str, str | int | float] = {
    "cpu": "a processor",
    "cores": 2,
    "threads": 1,
    "dtype": "float32",
    "load": 0.5,
    "python": "3.11",
    "torch": "2.0",
}
COMPARISON = Comparison(
    subject="ours | a",
    against="b",
    unit="s",
    ours=[1.0, 2.0, 6.0],
    theirs=[1.0, 4.0, 2.0],
    goal=Goal(kind="at most", value=0.5),
)
NAME = next(iter(BENCHMARKS))


def test_the_page_is_the_results_own() -> None:
    for file, content in page.files(page.DOCS).items():
        assert file.read_text(encoding="utf-8") == content, "run `python -m simulations.benchmarks.page`"


def test_every_kept_result_is_of_a_benchmark_and_has_a_plot_and_nothing_else_is_there() -> None:
    results = page.read(page.DOCS / page.FOLDER)
    assert results
    assert {name: result.name for name, result in results.items()} == {name: name for name in results}
    assert results.keys() <= BENCHMARKS.keys()
    plots = {file.stem for file in (page.DOCS / page.FOLDER).glob("*.svg")}
    assert plots == results.keys()
    assert {file.stem for file in (page.DOCS / page.FOLDER).glob("*.md")} <= results.keys()
    for result in results.values():
        assert all(len(one.ours) >= 5 for one in result.comparisons), result.name


def test_a_page_states_each_ratio_its_goal_and_whether_it_is_reached(tmp_path: Path) -> None:
    result = Result(
        name=NAME, machine=MACHINE, comparisons=[COMPARISON], tables=[Table(title="more", columns=["a"], rows=[[1.5]])]
    )
    (tmp_path / page.FOLDER).mkdir()
    (tmp_path / page.FOLDER / f"{NAME}.json").write_text(result.model_dump_json(), encoding="utf-8")
    (tmp_path / page.FOLDER / f"{NAME}.md").write_text("What is to be said.\n", encoding="utf-8")
    text, svg = page.files(tmp_path).values()
    assert f"| [{NAME}](#{NAME}) | ours \\| a | b | 1 | 0.5 to 3 | ≤ 0.5 | **no** |" in text
    assert "| ours \\| a | b | s | 2 | 2 | 1 | 0.5 to 3 | ≤ 0.5 | **no** |" in text
    assert "What is to be said." in text
    assert "3 turns. a processor, 2 cores, 1 thread(s), float32, load 0.5 at the start; python 3.11, torch 2.0." in text
    ElementTree.fromstring(svg)


def parts(svg: str | None, kind: str) -> list[dict[str, str]]:
    assert svg is not None
    return [part.attrib for part in ElementTree.fromstring(svg).iter() if part.tag.endswith(kind)]


def test_ratios_are_drawn_from_left_to_right_with_median_and_goal() -> None:
    svg = page.plot(Result(name=NAME, machine=MACHINE, comparisons=[COMPARISON]))
    across = [float(point["cx"]) for point in parts(svg, "circle")]
    assert len(across) == 3
    assert across[1] < across[0] < across[2]  # 0.5, 1, 3
    upright = [line for line in parts(svg, "line") if "stroke-width" in line]
    assert float(upright[0]["x1"]) == across[0]  # the median
    assert float(upright[1]["x1"]) == pytest.approx(across[1], abs=0.1)  # the goal


def test_curves_begin_at_the_left_and_rise_upwards() -> None:
    svg = page.plot(
        Result(name=NAME, machine=MACHINE, curves=Curves(along="round", unit="MB", values={"a": [1, 2, 4]}))
    )
    (line,) = parts(svg, "polyline")
    points = [tuple(map(float, point.split(","))) for point in line["points"].split()]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)


@pytest.mark.parametrize("names", ["abcdef", range(6, 0, -1)])
def test_a_table_alone_is_drawn_as_bars(names: Sequence[str | int]) -> None:
    rows: list[list[Cell]] = [[name, None, value] for name, value in zip(names, range(1, 7), strict=True)]
    svg = page.plot(
        Result(name=NAME, machine=MACHINE, tables=[Table(title="t", columns=["what", "-", "s"], rows=rows)])
    )
    widths = [float(bar["width"]) for bar in parts(svg, "rect") if bar["width"] != "100%"]
    assert len(widths) == 6
    assert widths[5] == pytest.approx(6 * widths[0], rel=0.01)
