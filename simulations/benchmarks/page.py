"""docs/performance.md and its plots, written from the results in docs/performance/.

    collegium bench NAME --json > docs/performance/NAME.json
    python -m simulations.benchmarks.page

What is to be said of a result beside its figures stands in `docs/performance/NAME.md`, if there is something. A test
holds page and plots to the results.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from simulations.auditing import plots
from simulations.benchmarks.measured import VERSIONS, Cell, Comparison, Result, Spread
from simulations.benchmarks.table import BENCHMARKS, Benchmark

DOCS = Path(__file__).parents[2] / "docs"
FOLDER = "performance"
"""Of the results, beside the page."""
COMPARED = ("ours", "beside", "figure", "ours", "theirs", "ratio", "least to most", "goal", "reached")
"""What `compared` tells."""

HEAD = """\
# Performance

Written by `python -m simulations.benchmarks.page` from the results in [performance/](performance/); do not edit.

`collegium bench NAME` measures one of these on your machine, `collegium bench` lists them. The sides run on one machine
in turns, with as many threads; compared is the ratio of their figures within a turn, ours over theirs, and the median
over the turns is held against the goal. Where a figure is in seconds, less is better. CPU seconds are of all processes
of a side; they hardly grow where the machine is busy with something else, as wall time does. Your figures will differ,
the ratios less.
"""


def page(results: Mapping[str, Result], remarks: Mapping[str, str]) -> str:
    """The whole page, Markdown."""
    known = [(name, benchmark) for name, benchmark in BENCHMARKS.items() if name in results]
    rows = [[f"[{name}](#{name})", *row] for name, _ in known for row in _overview(results[name])]
    overview = _table(["benchmark", "ours", "beside", "ratio", "least to most", "goal", "reached"], rows)
    sections = [_section(name, benchmark, results[name], remarks.get(name, "")) for name, benchmark in known]
    return "\n".join([HEAD, overview, "", *sections])


def plot(result: Result) -> str | None:
    """The plot of a result as an SVG file: its curves, else its ratios, else numbers of its first table.

    These are of the first column with numbers after the one that names the rows.
    """
    if curves := result.curves:
        return plots.standalone(plots.lines(curves.values, curves.along, curves.unit))
    if result.comparisons:
        ratios = {_name(one): one.ratios for one in result.comparisons}
        goals = {_name(one): one.goal.value for one in result.comparisons if one.goal}
        return plots.standalone(plots.ratios(ratios, goals, "ours / theirs"))
    for table in result.tables:
        numbers = [i for i, value in enumerate(table.rows[0]) if i and isinstance(value, int | float)]
        if numbers:
            values = {str(row[0]): float(row[numbers[0]] or 0) for row in table.rows}
            return plots.standalone(plots.bars(values, table.columns[numbers[0]]))
    return None


def read(folder: Path) -> dict[str, Result]:
    """The results that are kept, by name."""
    return {file.stem: Result.model_validate_json(file.read_bytes()) for file in sorted(folder.glob("*.json"))}


def files(docs: Path) -> dict[Path, str]:
    """What the page and its plots must be, by file, as the results in `docs` say."""
    results = read(docs / FOLDER)
    remarks = {file.stem: file.read_text(encoding="utf-8").strip() for file in (docs / FOLDER).glob("*.md")}
    drawn = {docs / FOLDER / f"{name}.svg": svg for name, result in results.items() if (svg := plot(result))}
    return {docs / f"{FOLDER}.md": page(results, remarks), **drawn}


def compared(one: Comparison) -> list[Cell]:
    """Both sides, what was measured, the medians of their figures, the ratio with its spread, and the goal."""
    figures = [Spread.of(one.ours).median, Spread.of(one.theirs).median]
    return [one.subject, one.against, one.unit, *figures, *_ratio(one)]


def _ratio(one: Comparison) -> list[Cell]:
    spread = f"{_shown(one.ratio.min)} to {_shown(one.ratio.max)}"
    reached = None if one.reached is None else "yes" if one.reached else "**no**"
    return [one.ratio.median, spread, str(one.goal) if one.goal else None, reached]


def _overview(result: Result) -> Iterator[list[Cell]]:
    for one in result.comparisons:
        yield [one.subject, one.against, *_ratio(one)]
    if not result.comparisons:
        yield [BENCHMARKS[result.name].summary, *[None] * 5]


def _section(name: str, benchmark: Benchmark, result: Result, remarks: str) -> str:
    parts = [f"## {name}", f"```\ncollegium bench {name}{result.options}\n```", benchmark.text]
    if result.comparisons:
        parts.append(_table(COMPARED, [compared(one) for one in result.comparisons]))
    parts += [f"{table.title}:\n\n{_table(table.columns, table.rows)}" for table in result.tables]
    if plot(result):
        parts.append(f"![{benchmark.summary}]({FOLDER}/{name}.svg)")
    parts += [remarks] if remarks else []
    parts.append(f"{_conditions(result)} [All figures]({FOLDER}/{name}.json)")
    return "\n\n".join(parts) + "\n"


def _conditions(result: Result) -> str:
    machine = result.machine
    turns = f"{len(result.comparisons[0].ours)} turns. " if result.comparisons else ""
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} thread(s), {machine['dtype']}"
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", *VERSIONS) if name in machine)
    return f"{turns}{where}, load {machine['load']} at the start; {versions}."


def _name(one: Comparison) -> str:
    return f"{one.subject} / {one.against}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    right = [any(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]
    lines = [columns, ["---:" if number else "---" for number in right], *([_shown(v) for v in row] for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _shown(value: Cell) -> str:
    """A cell as it is read: three digits of a number are enough."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "" if value is None else str(value)


def main() -> None:
    """Write the page and its plots."""
    for file, content in files(DOCS).items():
        file.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
