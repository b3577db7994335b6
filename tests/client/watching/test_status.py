"""What a site does, for its operator."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from client.institution import load_institution
from client.leaving.receipts import FILE
from client.watching import status
from client.watching.metrics import Left
from client.watching.status import report, shown, watch
from shared.federation import Federation, federation_toml


@pytest.fixture
def file(tmp_path: Path, tiny_federation: Callable[..., Federation]) -> Path:
    (tmp_path / "federation.toml").write_text(federation_toml(tiny_federation(rounds={"count": 4})))
    (tmp_path / "state").mkdir()
    values = {"name": "hospital", "data": {"entities": {"train": "x.jsonl"}}, "policy": {"max_epsilon": 4.0}}
    (tmp_path / "institution.toml").write_text(tomli_w.dumps(values))
    return tmp_path / "institution.toml"


def answer(file: Path, number: int) -> None:
    told = {"kind": "train", "bytes": 1_500_000, "round": number, "run": "3f2a", "epsilon": 1.0 * number}
    with (file.parent / "state" / FILE).open("a") as log:
        log.write(json.dumps(told | {"time": "2026-11-29T12:00:00+00:00"}) + "\n")


def test_it_is_told_out_of_the_site_s_own_files(file: Path) -> None:
    site = load_institution(file)
    words = shown(report(site, Left(site)))
    assert (words["daemon"], words["last round"], words["left this site"]) == ("down", None, "nothing; 0.0 MB")
    answer(file, 1)
    answer(file, 2)
    told = report(site, Left(site))
    assert (told["round"], told["rounds"], told["bytes"], told["epsilon_left"]) == (2, 4, 3_000_000, 2.0)
    words = shown(told)
    assert words["last round"] == "2 of 4, in run 3f2a"
    assert words["privacy"] == "2.00 spent, 2.00 left"
    assert words["left this site"] == "2 train; 3.0 MB"


def test_a_wrong_agreement_is_said_in_its_place(file: Path) -> None:
    (file.parent / "federation.toml").write_text("nonsense")
    site = load_institution(file)
    assert "not valid TOML" in report(site, Left(site))["agreement"]


def test_without_a_terminal_what_has_changed_is_a_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "LOOK_SECONDS", 0.0)
    said, looks = list[str](), 0

    def over() -> bool:
        nonlocal looks
        looks += 1
        if looks == 3:
            answer(file, 1)
        return looks > 5

    watch(file, said.append, over)
    assert said.count("daemon: down") == 1
    assert "last round: 1 of 4, in run 3f2a" in said
    assert len(said) == len(set(said))
