"""What a check says, and the verdict on all of them together."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from shared.errors import CollegiumError
from shared.process.console import print_table

Verdict = Literal["ok", "warning", "error"]
VERDICTS: tuple[Verdict, ...] = ("ok", "warning", "error")
"""From best to worst."""
OVERALL: dict[Verdict, str] = {"ok": "ready", "warning": "review", "error": "blocked"}
"""What is said of all findings together, by the worst of them."""


@dataclass(frozen=True)
class Finding:
    """What one check has found."""

    check: str
    verdict: Verdict
    text: str
    """What was found."""
    advice: str = ""
    """What to do about it."""


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of some verdicts; ok if there is none."""
    return max(verdicts, key=VERDICTS.index, default="ok")


@contextmanager
def as_finding(check: str, found: list[Finding]) -> Iterator[None]:
    """Turn an error of Collegium's that ends the block into a finding; the block need not yield anything then."""
    try:
        yield
    except CollegiumError as error:
        found.append(Finding(check, "error", str(error)))


def print_findings(findings: Sequence[Finding], title: str) -> None:
    """Print a table of findings, the worst first."""
    ordered = sorted(findings, key=lambda finding: -VERDICTS.index(finding.verdict))
    rows = [(f.verdict, f.check, f"{f.text} {f.advice}".strip()) for f in ordered]
    print_table(("verdict", "check", "finding"), rows, title=title, wrapped="finding")


def summed_up(verdicts: Sequence[Verdict]) -> str:
    """The last line of a report."""
    counts = {verdict: verdicts.count(verdict) for verdict in VERDICTS}
    return (
        f"Verdict: {OVERALL[worst(verdicts)]}. "
        f"Errors: {counts['error']}, warnings: {counts['warning']}, ok: {counts['ok']}."
    )
