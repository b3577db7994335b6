"""`collegium client report`: what left in a month, when, to whom and under which epsilon, out of the receipts.

For those who must sign for it: Markdown that stands in docs/deploy/export-committee.md, filled. The receipts are
verified first, so that the report says no more than what was signed when it left.
"""

import datetime
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from client.enrolment.succession import earlier_keys
from client.institution import load_institution
from client.keys import fingerprint, read_private_key
from client.leaving import receipts
from shared.errors import ConfigError

Receipt = Mapping[str, Any]
KINDS = {
    "query": "counts and labels of the records, as far as the policy shares them",
    "train": "an update of the model: how its numbers have moved",
    "evaluate": "scores of the model on this institution's records",
    "refusal": "a refusal and its reason",
}
"""What each kind of reply is, in words."""


def report(file: Path, month: str) -> dict[str, Any]:
    """What left in a month.

    Args:
        file: The institution's institution.toml.
        month: `2026-11`, in UTC, as the receipts' times are.

    Raises:
        ConfigError: institution.toml is wrong, or the month is none.
        StoreError: The receipts are not as they were signed; EnrolmentError if the key cannot be read.
    """
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", month):
        raise ConfigError(f"Expected a month such as 2026-11, but it is {month[:40]!r}; write its year and two digits.")
    site = load_institution(file)
    state, key = site.runtime.state, read_private_key(site.identity.key).public_key()
    every = receipts.verify(state, [key, *earlier_keys(state, key)])
    of_month = [each for each in every if str(each["time"]).startswith(month)]
    before = [each for each in every if str(each["time"])[:7] < month]
    return {
        "institution": site.name,
        "coordinator": site.server.address,
        "month": month,
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "key": fingerprint(key),
        "verified": len(every),
        "first": of_month[0]["sequence"] if of_month else None,
        "last": of_month[-1]["sequence"] if of_month else None,
        "max_epsilon": site.policy.max_epsilon,
        "epsilon_before": _epsilon(before),
        "epsilon_after": _epsilon([*before, *of_month]),
        "runs": _by_run(of_month),
        "replies": [
            {name: each[name] for name in ("sequence", "time", "kind", "run", "round", "bytes", "epsilon", "sha256")}
            for each in of_month
        ],
    }


def _by_run(found: Sequence[Receipt]) -> list[dict[str, Any]]:
    """What left for each agreement and run, by kind."""
    groups: dict[tuple[str, str, str], list[Receipt]] = defaultdict(list)
    for each in found:
        groups[str(each["federation"]), str(each["run"] or "-"), str(each["kind"])].append(each)
    return [
        {
            "agreement": agreement,
            "run": run,
            "kind": kind,
            "what": KINDS.get(kind, kind),
            "replies": len(group),
            "bytes": sum(_bytes(each) for each in group),
            "tasks": sorted({task for each in group for task in each["tasks"]}),
            "from": group[0]["time"],
            "until": group[-1]["time"],
            "epsilon": _epsilon(group),
        }
        for (agreement, run, kind), group in groups.items()
    ]


def _bytes(receipt: Receipt) -> int:
    """Of all of a reply: a receipt counts an update without what is sent beside it."""
    beside = len(str(receipt["body"]).encode()) if receipt["norm"] is not None else 0
    return int(receipt["bytes"]) + beside


def _epsilon(found: Sequence[Receipt]) -> float | None:
    """What the data had spent by the last receipt that says so."""
    return next((float(each["epsilon"]) for each in reversed(found) if each["epsilon"] is not None), None)


def as_markdown(told: Mapping[str, Any]) -> str:
    """The report as a page to be signed."""
    lines = [
        f"# What left {told['institution']} in {told['month']}",
        "",
        f"To the coordinator at {told['coordinator']}. Written {told['written']} from the signed receipts of this",
        f"institution: all {told['verified']} were verified, chain and signatures, by the key {told['key']}.",
        "",
        "## In short",
        "| agreement | run | what left | replies | bytes | tasks | from (UTC) | until (UTC) | epsilon after |",
        "|---|---|---|---:|---:|---|---|---|---:|",
    ]
    for run in told["runs"]:
        cells = [run["agreement"][:12], run["run"], run["what"], run["replies"], run["bytes"], ", ".join(run["tasks"])]
        lines.append(_row([*cells, run["from"][:16], run["until"][:16], _number(run["epsilon"])]))
    if not told["runs"]:
        lines.append(_row(["-", "-", "nothing", 0, 0, "-", "-", "-", "-"]))
    limit = "none of this institution's own" if told["max_epsilon"] is None else f"{told['max_epsilon']:g}"
    lines += [
        "",
        "## Privacy budget",
        f"Epsilon spent before this month: {_number(told['epsilon_before'])}.",
        f"After it: {_number(told['epsilon_after'])}. Limit: {limit}.",
        "No epsilon means that the agreement has no differential privacy.",
        "",
        "## Each reply",
        "| receipt | time (UTC) | kind | run | round | bytes | epsilon after | SHA-256 |",
        "|---:|---|---|---|---:|---:|---:|---|",
    ]
    for each in told["replies"]:
        cells = [each["sequence"], each["time"][:19], each["kind"], each["run"] or "-", _dash(each["round"])]
        lines.append(_row([*cells, each["bytes"], _number(each["epsilon"]), f"`{each['sha256'][:16]}`"]))
    lines += ["", "## Signed", "| name | office | date | signature |", "|---|---|---|---|", "| | | | |", ""]
    return "\n".join(lines)


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _dash(value: object) -> object:
    return "-" if value is None else value
