"""The operator's report as tables for the terminal; what is long stands below its table, not in a column."""

from collections.abc import Mapping, Sequence
from typing import Any

from shared.process.console import announce, print_lines, print_table

Report = Mapping[str, Any]
TABLES: Sequence[tuple[str, str, Mapping[str, str]]] = (
    ("withdrawn", "Withdrawn", {"institution": "institution", "time": "since (UTC)"}),
    ("releases", "Releases", {"release": "release", "round": "round", "time": "made (UTC)", "folder": "folder"}),
    (
        "limited",
        "Limits of the public door that were passed",
        {"institution": "institution", "limit": "limit", "times": "times refused"},
    ),
    (
        "spending",
        "Privacy",
        {"institution": "institution", "round": "after round", "epsilon": "epsilon spent"},
    ),
    (
        "cuts",
        "Counts above their share",
        {
            "institution": "institution",
            "task": "task",
            "split": "records of",
            "round": "last in round",
            "told": "reported",
            "used": "counted",
        },
    ),
    (
        "evaluations",
        "Privacy of scores",
        {
            "institution": "institution",
            "split": "records",
            "round": "after round",
            "epsilon": "epsilon spent on scores",
        },
    ),
)
"""Parts of a report, their titles, and what their columns are called."""


def print_status(report: Report) -> None:
    """Print all of a report."""
    if report["server"] == "down":
        announce("The server is not up: what follows is what the store knows.")
    print_table(
        ["institution", "status", "last seen (UTC)", "rounds missed"],
        [[one["name"], one["status"], one["last_seen"], one["missed"]] for one in report["institutions"]],
        title="Institutions",
    )
    for name, until in report["invited"].items():
        print_lines(f"{name} is invited until {until}.")
    days = report["days_left"]
    print_lines(f"Days left: {days['server']} of the server certificate, {days['authority']} of its authority.")
    sizes = ", ".join(f"{what} {size / 2**20:.1f} MiB" for what, size in report["bytes"].items())
    print_lines(f"On disk: {sizes}.")
    if offer := report["offer"]:
        announce(f"Offered: {offer['digest']}")
        for word in ("approved", "declined", "silent"):
            announce(f"  {word}: {', '.join(offer[word]) or 'nobody'}")
    print_runs(report["runs"])
    _print_rounds(report)
    if report["tests"]:
        scored = [key for key in ("before", "after", "personal") if any(t[key] is not None for t in report["tests"])]
        columns = ["institution", "task", "metric", *scored]
        print_table(columns, [[test[key] for key in columns] for test in report["tests"]], title="Test scores")
    for part, title, columns_of in TABLES:
        if report[part]:
            rows = [[row[key] for key in columns_of] for row in report[part]]
            print_table(list(columns_of.values()), rows, title=title)
    _print_outliers(report["outliers"])
    if report["refusals"]:
        keys = ("institution", "kind", "request", "round")
        print_table(
            ["institution", "refused by", "request", "last in round"],
            [[row[key] for key in keys] for row in report["refusals"]],
            title="Refusals",
        )
        for row in report["refusals"]:
            print_lines(f"{row['institution']} ({row['kind']}): {row['reason']}")


def print_runs(runs: Sequence[Report]) -> None:
    """Print one line a run, and the reasons why runs ended below."""
    print_table(
        ["run", "federation", "status", "round", "left", "started (UTC)"],
        [
            [
                run["run"],
                run["federation"],
                f"{run['status']}, to pause" if run["pausing"] else run["status"],
                f"{run['rounds']} of {run['of']}",
                about(run["remaining_seconds"]),
                run["started"],
            ]
            for run in runs
        ],
        title="Runs",
    )
    for run in runs:
        if run["reason"]:
            print_lines(f"Run {run['run']}: {run['reason']}")


def about(seconds: float | None) -> str | None:
    """A duration as people say it."""
    if seconds is None:
        return None
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _print_rounds(report: Report) -> None:
    if not report["rounds"]:
        return
    keys = ("round", "score", "bytes_up", "bytes_down", "seconds")
    print_table(
        ["round", "score", "bytes up", "bytes down", "seconds", "took part"],
        [[*(row[key] for key in keys), row["took_part"]] for row in report["rounds"]],
        title=f"Run {report['run']}",
        wrapped="took part",
    )
    for row in report["rounds"]:
        if row["absent"]:
            print_lines(f"Round {row['round']} went without {row['absent']}")
        if row["carried"]:
            print_lines(f"Round {row['round']}'s score was compared with {row['carried']}, since they were away")


def _print_outliers(outliers: Sequence[Report]) -> None:
    if not outliers:
        return
    keys = ("institution", "part", "round", "norm", "cosine", "verdict", "held_back")
    print_table(
        ["institution", "part", "round", "norm", "cosine", "verdict", "rounds held back"],
        [[row[key] for key in keys] for row in outliers],
        title="Outliers",
    )
    for row in outliers:
        if row["reason"]:
            print_lines(f"{row['institution']} ({row['part']}): {row['reason']}")
