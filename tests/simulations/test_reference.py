"""docs/configuration.md is what the code says."""

from pathlib import Path

from simulations.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_the_codes_own() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "run `python -m simulations.reference > docs/configuration.md`"
    )


def test_every_key_says_what_it_is() -> None:
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    assert [row for row in rows if row.endswith("|  |")] == []
