"""A release that misses what its agreement asks is refused with what was measured; what was not measured is missed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from collegium.__main__ import app
from server.release.gate import Measured, check_gate
from server.release.lineage import Worst
from server.release.making import release_run
from server.store import releases
from shared.bundle import load_metrics, release_of, verify_bundle
from shared.errors import BundleError, ConfigError, ReleaseError
from shared.federation import Federation

ALL = {"max_exposure": 3.0, "max_membership_auc": 0.6, "min_worst_score": 0.5}
WORST = Worst("bank", "clauses", "macro_f1", 0.7)
GOOD = Measured(WORST, [], {"clauses": 0.55, "entities": 0.52}, 1.5)


@pytest.mark.parametrize(
    ("measured", "told"),
    [
        (GOOD, []),
        (Measured(WORST, [], {"clauses": 0.6, "entities": 0.6}, 3.0), []),
        (Measured(WORST, [], {"clauses": 0.7, "entities": 0.52}, 1.5), ["in clauses is told at an area of 0.700"]),
        (Measured(WORST, [], {"clauses": 0.55}, 1.5), ["membership in entities was not measured"]),
        (Measured(WORST, [], GOOD.membership, None), ["exposure was not measured (max_exposure = 3"]),
        (Measured(WORST, [], GOOD.membership, 3.01), ["exposure is 3.01 bits (max_exposure = 3)"]),
        (
            Measured(Worst("bank", "clauses", "macro_f1", 0.4), [("hospital", "entities")], GOOD.membership, 1.5),
            ["0.400, bank's macro_f1 of clauses", "hospital has told no test score of entities"],
        ),
        (Measured(None, [], {}, None), ["nothing was scored", "exposure was not", "in clauses was", "in entities was"]),
    ],
)
def test_everything_that_is_missed_is_said_at_once(
    tiny_federation: Callable[..., Federation], measured: Measured, told: list[str]
) -> None:
    agreed = tiny_federation(release=ALL)
    tasks = ["clauses", "entities"]
    check_gate(tiny_federation(), measured, tasks)
    if not told:
        check_gate(agreed, measured, tasks)
        return
    with pytest.raises(ReleaseError) as caught:
        check_gate(agreed, measured, tasks)
    assert [part for part in told if part not in str(caught.value)] == []
    assert str(caught.value).count("; ") == len(told), "and no more"


def audit(file: Path, **changes: Any) -> Path:
    known = {"audit": "bundle", "task": "clauses", "by_drop": {"auc": 0.55, "low": 0.5, "high": 0.6}, "scores_in": [1]}
    file.write_text(json.dumps(known | changes))
    return file


def test_a_run_is_drafted_audited_and_released(world: Any, tmp_path: Path) -> None:
    made = world(release=ALL | {"min_worst_score": 0.72})
    run, root = made.run(), made.home.root
    draft = release_run(root, None, tmp_path / "draft", draft=True)
    with pytest.raises(BundleError, match="only `collegium server release` signs"):
        verify_bundle(draft)
    found = audit(tmp_path / "audit.json", release=release_of(draft))
    secrets = {"audit": "training", "agreement": made.federation.digest, "exposure_in": [1.0, 4.0]}
    exposed = audit(tmp_path / "training.json", by_drop=None, **secrets)
    words = ["server", "release", str(root), str(tmp_path / "bundle")]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, ReleaseError)
    assert "exposure was not measured" in str(refused.exception)
    assert "membership in clauses was not measured" in str(refused.exception)
    assert not (tmp_path / "bundle").exists()
    assert not list(tmp_path.glob(".bundle*"))
    words += ["--audit", str(found), "--audit", str(exposed), "--json"]
    told = json.loads(CliRunner().invoke(app, words).stdout)
    assert told == {"bundle": str(tmp_path / "bundle"), "release": release_of(draft), "signed": True}
    verify_bundle(tmp_path / "bundle")
    metrics = load_metrics(tmp_path / "bundle")
    assert [one["exposure"] for one in metrics["audits"]] == [None, 2.5]
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "2.50 bits on average (at most 3 are allowed)" in card
    assert "clauses 0.550 (0.500 to 0.600) (at most 0.6 is allowed)" in card
    with made.open() as store:
        assert [(row["run"], row["release"]) for row in store.rows(releases)] == [(run, release_of(draft))]


def test_an_audit_of_something_else_is_none(world: Any, tmp_path: Path) -> None:
    made = world(release={"max_membership_auc": 0.6})
    made.run()
    for changes in (
        {"release": "0" * 64},
        {},
        {"audit": "training", "agreement": "0" * 64},
        {"audit": "training", "release": "0" * 64},
    ):
        file = audit(tmp_path / "audit.json", **changes)
        with pytest.raises(ConfigError, match=r"Expected an audit of (release|agreement)"):
            release_run(made.home.root, None, tmp_path / "bundle", audits=[file])
    for wrong in ("no JSON", '{"audit": "bundle", "by_drop": {"auc": NaN, "low": 0, "high": 1}}', "{}"):
        file.write_text(wrong)
        with pytest.raises(ConfigError, match="cannot be read as one"):
            release_run(made.home.root, None, tmp_path / "bundle", audits=[file])
    with pytest.raises(ConfigError, match="cannot be read as one"):
        release_run(made.home.root, None, tmp_path / "bundle", audits=[tmp_path / "none"])


def test_the_worst_institution_decides(world: Any, tmp_path: Path) -> None:
    made = world(release={"min_worst_score": 0.75})
    made.run()
    with pytest.raises(ReleaseError, match=r"the worst score is 0\.730, bank's macro_f1 of clauses"):
        release_run(made.home.root, None, tmp_path / "bundle")
