"""What the pages say of themselves and of each other is true: links, headings, numbers, and the README's commands."""

import re
from pathlib import Path

import pytest

from shared.federation.methods import METHODS
from shared.tasks import TASK_TYPES

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NUMBERS = {10: "ten", 11: "eleven", 12: "twelve", 13: "thirteen"}


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```\w*\n.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What links may point to: every heading, in lower case, without punctuation, with hyphens for spaces."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = target.partition("#")
        if path.startswith("https://"):
            continue
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(other), f"{page.name} links to {target}"


def test_headings_of_a_page_differ() -> None:
    for page in PAGES:
        if page.name not in ("CHANGELOG.md", "configuration.md"):  # whose headings repeat under each version and file
            headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
            assert len(headings) == len(set(headings)), page.name


def test_the_readme_counts_right() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    attacks = (ROOT / "docs" / "security.md").read_text(encoding="utf-8").split("<!-- attacks: begin -->")[1]
    rows = [line for line in attacks.splitlines() if line.startswith("| ")][1:]
    assert f"runs {len(rows)} of them" in readme
    assert f"[{NUMBERS[len(TASK_TYPES)]} types of task]" in readme
    assert f"[{NUMBERS[len(METHODS)].capitalize()} methods]" in readme


def test_the_readme_has_the_command_that_tries_and_the_one_that_tests() -> None:
    blocks = re.findall(
        r"^```\n(.*?)\n```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    install = "python3 -m venv .venv && .venv/bin/pip install -e"
    assert f"{install} . -c constraints.txt && .venv/bin/collegium demo" in blocks
    assert f"{install} '.[test]' -c constraints.txt && .venv/bin/pytest -n 3" in blocks
    assert "pytest -n 3\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
