"""Before the first round: what each institution says it holds, and where their labels do not meet the federation's."""

from collections.abc import Collection, Mapping

from server.rounds.replies import Holdings
from shared.errors import joined, listed
from shared.tasks import Task

DOUBTS = (
    ("duplicate_rate", 0.05, "of the records of {task} repeat an earlier one"),
    ("test_overlap_rate", 0.05, "of the test texts of {task} are in train too"),
    ("cut_rate", 0.05, "of the records of {task} are cut to backbone.max_length"),
    ("majority_share", 0.95, "of the labels of {task} are the same one"),
)
"""Numbers of the text readiness report, from which share on they are worth a line, and what it says."""


def describe(institution: str, holdings: Holdings, tasks: Mapping[str, Task]) -> list[str]:
    """Lines about one institution: its tasks, the labels it does not annotate or never uses, doubts about its text."""
    present = joined(f"{task} ({_count(holdings, task)})" for task in sorted(holdings.records))
    lines = [f"{institution} takes part with {present}"]
    for task, counts in sorted(holdings.labels.items()):
        known = tasks[task].labels
        if absent := [label for label in known if label not in counts]:
            lines.append(f"{institution} does not annotate {_listed(absent)} of {task}: it leaves their rows alone")
        if unused := [label for label in known if counts.get(label) == 0]:
            lines.append(f"{institution} has no training record with {_listed(unused)} of {task}")
    for task, numbers in sorted(holdings.readiness.items()):
        for name, least, doubt in DOUBTS:
            if (share := numbers.get(name, 0.0)) >= least:
                lines.append(f"{institution}: {share:.0%} {doubt.format(task=task)}")
    return lines


def gaps(announced: Mapping[str, Holdings], tasks: Mapping[str, Task], unheard: Collection[str] = ()) -> list[str]:
    """Lines about tasks and labels of the federation that no institution can train.

    Args:
        announced: What each institution holds that has answered.
        tasks: The federation's.
        unheard: Institutions that were away, or refused to answer: they may hold what is missing.
    """
    lines, who = [], f"Of those who have answered (not {joined(unheard)}) none" if unheard else "No institution"
    for name, task in sorted(tasks.items()):
        holders = [holdings for holdings in announced.values() if name in holdings.records]
        if not holders:
            lines.append(f"{who} holds {name}: its head stays as it is")
            continue
        counts = [holdings.labels[name] for holdings in holders if name in holdings.labels]
        if counts and (missing := [x for x in task.labels if not any(c.get(x) for c in counts)]):
            lines.append(f"{who} has a training record with {_listed(missing)} of {name}")
    return lines


def _count(holdings: Holdings, task: str) -> str:
    """Training records, as far as the institution reports them."""
    if holdings.counts == "none":
        return "count not shared"
    return f"{'about ' if holdings.counts == 'rounded' else ''}{holdings.records[task]['train']}"


def _listed(labels: list[str]) -> str:
    return listed(labels)[1:-1]
