"""What an institution gains: who holds what, on which records all are scored, and how the rows are shown."""

import gzip
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from client.data.sources import read_rows
from simulations.benchmarks.scores import gain
from simulations.benchmarks.scores.gain import (
    COSTS,
    HOWS,
    INSTITUTIONS,
    RECORDS,
    SEEDS,
    Setting,
    costs,
    divided,
    drawn,
    run_setting,
    settings,
    table,
)
from simulations.benchmarks.scores.methods import LABELS, TASK

WORDS = {label: f"{label.lower()} of the court" for label in LABELS}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a data set whose label stands in the text; ten test records are training records too."""
    folder = tmp_path / "data" / TASK
    folder.mkdir(parents=True)

    def rows(start: int, count: int) -> list[dict[str, str]]:
        return [
            {"text": f"{WORDS[LABELS[i % 6]]} {i}", "label": LABELS[i % 6], "doc": f"d{i % 7}"}
            for i in range(start, start + count)
        ]

    known = [row | {"text": f"  {row['text'].upper()} "} for row in rows(0, 10)]
    for split, found in (("train", rows(0, 700)), ("test", rows(700, 30) + known)):
        with gzip.open(folder / f"{split}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in found)
    return folder.parent


def test_five_institutions_hold_the_records_and_the_first_the_unseen_test_records(data: Path, tmp_path: Path) -> None:
    experiment = divided(Setting("together", 13), data, tmp_path)
    held = [tasks[TASK] for tasks in experiment.institutions.values()]
    sizes = [len(list(read_rows(source.train))) for source in held]
    assert len(sizes) == INSTITUTIONS
    assert sum(sizes) == RECORDS
    assert min(sizes) < max(sizes)
    assert [source.test is not None for source in held] == [True, *[False] * (INSTITUTIONS - 1)]
    assert held[0].test is not None
    assert [row["text"].split()[-1] for _, row in read_rows(held[0].test)] == [str(i) for i in range(700, 730)]


@pytest.mark.parametrize("how", HOWS)
def test_a_row_scores_every_model_on_the_same_records(
    how: gain.How, data: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gain.experiment_of

    def small(setting: Setting) -> dict[str, Any]:
        found = whole(setting)
        found["federation"] |= {"backbone": {"name": str(tiny_bert), "max_length": 16}, "rounds": {"count": 1}}
        return found

    monkeypatch.setattr(gain, "experiment_of", small)
    row = run_setting(Setting(how, 13), data)
    assert row["tested"] == 30
    assert sum(records for records, _ in row["scores"]) == RECORDS
    assert len(row["scores"]) == (INSTITUTIONS if how == "alone" else 1)
    assert ("costs" in row) == (how == "together")
    assert all(row["costs"][name] > 0 for name in COSTS if how == "together")
    assert all(0 <= score <= 1 for _, score in row["scores"])


ROWS: list[dict[str, Any]] = [
    {"row": "alone, seed 13", "scores": [[60, 0.4], [140, 0.6]]},
    {"row": "together, seed 13", "scores": [[200, 0.7]]},
    {"row": "alone, seed 14", "scores": [[90, 0.5], [110, 0.7]]},
    {
        "row": "rolora, 3 institutions, seed 13",
        "scores": [[500, 0.9]],
        "costs": dict.fromkeys(COSTS, 2.5),
        "seconds": 7,
    },
]


def test_the_table_has_means_over_institutions_and_seeds() -> None:
    assert len(SEEDS) == 3
    alone, together, pooled = table(ROWS)
    assert alone == ["each alone", 0.5, pytest.approx(0.6), None, pytest.approx(0.55)]
    assert together == ["together", 0.7, None, None, 0.7]
    assert pooled == ["all records pooled", None, None, None, None]


def test_methods_are_compared_by_score_and_costs() -> None:
    assert costs(ROWS) == [["rolora, 3 institutions, seed 13", 0.9, 2.5, 2.5, 2.5, 2.5, 2.5, 7]]
    compared = settings()["rolora, 3 institutions, seed 13"]
    federation, split = (gain.experiment_of(compared)[table] for table in ("federation", "partition"))
    assert (federation["rounds"]["method"], split[TASK]["institutions"], split[TASK]["seed"]) == ("rolora", 3, 13)


def test_the_plot_has_a_point_for_every_institution_and_a_line_for_every_other_row() -> None:
    image = ElementTree.fromstring(drawn(ROWS))
    points = [part for part in image.iter() if part.tag.endswith("circle")]
    lines = [part for part in image.iter() if part.tag.endswith("line") and "stroke" in part.attrib]
    across = [float(point.attrib["cx"]) for point in points]
    up = [float(point.attrib["cy"]) for point in points]
    assert sorted(across) == [across[0], across[2], across[3], across[1]]  # 60, 90, 110, 140 records
    assert min(up) == up[3]  # 0.7, as high as the line of training together
    assert [float(line.attrib["y1"]) for line in lines] == [up[3]] * 2  # of the seed, and of the mean
