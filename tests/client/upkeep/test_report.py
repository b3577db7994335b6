from pathlib import Path

import pytest

from client.keys import generate_node_key
from client.leaving import receipts
from client.leaving.receipts import Receipts, Release
from client.upkeep.report import as_markdown, report
from shared.errors import ConfigError, StoreError

ROOT = Path(__file__).parents[3]


def release(kind: str, number: int | None, epsilon: float | None) -> Release:
    norm = 0.5 if kind == "train" else None
    return Release(kind, "ab" * 32, 1000, norm, '{"a": 1}', "cd" * 32, "3f2a", number, ("notes",), epsilon, None)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An institution from which five replies left in two months."""
    generate_node_key(tmp_path / "node.key")
    file = tmp_path / "institution.toml"
    file.write_text('name = "hospital"\n[data.notes]\ntrain = "notes.jsonl"\n[policy]\nmax_epsilon = 3.0\n')
    log = Receipts(tmp_path / "state", tmp_path / "node.key")
    for time, each in (
        ("2026-10-31T23:59:59.000+00:00", release("train", 1, 0.5)),
        ("2026-11-01T00:00:00.000+00:00", release("train", 2, 0.75)),
        ("2026-11-02T10:00:00.000+00:00", release("evaluate", 2, None)),
        ("2026-11-30T23:59:59.000+00:00", release("train", 3, 1.25)),
        ("2026-12-01T00:00:00.000+00:00", release("train", 4, 2.0)),
    ):
        monkeypatch.setattr(receipts, "datetime", clock(time))
        log.append(each)
    monkeypatch.undo()
    return file


def clock(time: str) -> object:
    """The module datetime, at a time."""

    class Now:
        UTC = None

        class datetime:  # noqa: N801
            @staticmethod
            def now(_: object) -> "Now.datetime":
                return Now.datetime()

            def isoformat(self, timespec: str) -> str:
                return time

    return Now


def test_a_month_is_what_left_in_it(site: Path) -> None:
    told = report(site, "2026-11")
    assert (told["first"], told["last"], told["verified"]) == (2, 4, 5)
    assert (told["epsilon_before"], told["epsilon_after"], told["max_epsilon"]) == (0.5, 1.25, 3.0)
    by_kind = {run["kind"]: (run["replies"], run["bytes"], run["epsilon"]) for run in told["runs"]}
    assert by_kind == {"train": (2, 2016, 1.25), "evaluate": (1, 1000, None)}
    assert [each["sequence"] for each in told["replies"]] == [2, 3, 4]


def test_the_page_says_what_when_to_whom_and_under_which_epsilon(site: Path) -> None:
    page = as_markdown(report(site, "2026-11"))
    assert "# What left hospital in 2026-11" in page
    assert "To the coordinator at 127.0.0.1:8443." in page
    assert "| cdcdcdcdcdcd | 3f2a | an update of the model: how its numbers have moved | 2 | 2016 | notes |" in page
    assert "before this month: 0.500.\nAfter it: 1.250. Limit: 3." in page
    assert "| 4 | 2026-11-30T23:59:59 | train | 3f2a | 3 | 1000 | 1.250 | `abababababababab` |" in page


def test_a_month_in_which_nothing_left(site: Path) -> None:
    told = report(site, "2027-01")
    assert (told["runs"], told["first"], told["epsilon_before"]) == ([], None, 2.0)
    assert "| nothing | 0 |" in as_markdown(told)


@pytest.mark.parametrize("month", ["2026-13", "11-2026", "2026-1", ""])
def test_what_is_no_month(site: Path, month: str) -> None:
    with pytest.raises(ConfigError, match="Expected a month such as 2026-11"):
        report(site, month)


def test_edited_receipts_are_not_reported(site: Path) -> None:
    log = site.parent / "state" / "receipts.jsonl"
    log.write_text(log.read_text().replace("0.75", "0.25"))
    with pytest.raises(StoreError, match=r"Receipt 2 .* is not what was signed"):
        report(site, "2026-11")


def test_the_template_has_the_same_parts(site: Path) -> None:
    template = (ROOT / "docs" / "deploy" / "export-committee.md").read_text()
    for line in as_markdown(report(site, "2026-11")).splitlines():
        if line.startswith(("## ", "| agreement", "| receipt", "| name")):
            assert line in template
