"""docs/security.md has the table that `python -m simulations.attacks` writes: every attack, and no other."""

from pathlib import Path

import pytest

from simulations.attacks import Attack, Outcome, __main__, attacks

PAGE = Path(__file__).parents[2] / "docs" / "security.md"


def test_the_page_lists_every_attack_and_none_succeeded() -> None:
    rows = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    assert [row[0].removeprefix("| ") for row in rows] == [attack.name for attack in attacks()]
    assert all("none succeeded" in row[3] for row in rows)


def test_attacks_have_names_of_their_own_and_say_what_they_would_break() -> None:
    found = list(attacks())
    assert len({attack.name for attack in found}) == len(found) > 14
    assert all(attack.promise and attack.by for attack in found)


def test_an_attack_that_succeeds_is_told_and_ends_with_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    good = Attack("a good one", "a stranger", "nothing leaves", lambda folder: Outcome(3, 0, "slow"))
    bad = Attack("a bad one", "a reader", "nothing leaves", lambda folder: Outcome(2, 1))
    monkeypatch.setattr(__main__, "attacks", lambda: iter([good, bad]))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{__main__.BEGIN}\nold\n{__main__.END}\nafter\n", encoding="utf-8")
    assert __main__.main(["--write", str(page)]) == 1
    assert "| a good one | a stranger | 3 | none succeeded; slow |" in capsys.readouterr().out
    written = page.read_text(encoding="utf-8")
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert "| a bad one | a reader | 2 | **1 succeeded** |" in written
    assert "old" not in written
    assert __main__.main(["--only", "good"]) == 0
