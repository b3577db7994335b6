"""The audit end to end on a tiny federation: honest training passes, training with too little noise is found out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

from client.privacy import dpsgd
from collegium.__main__ import app
from shared.adapter import get_state
from shared.bundle import write_bundle
from shared.errors import ConfigError, DataError
from shared.federation import Federation
from shared.model.multitask import build_model
from simulations.audit import audit_target
from simulations.auditing import training
from simulations.auditing.bundle import audit_bundle
from simulations.auditing.canaries import STEEPNESS, Dirac, DiracHead
from simulations.auditing.plan import Plan
from simulations.auditing.report import write_report
from simulations.auditing.training import TrainingAudit, audit_training

TASKS = {
    "clauses": {"type": "text-classification", "labels": ["payment", "liability"]},
    "words": {"type": "fill-mask"},
}
PRIVATE: dict[str, Any] = {
    "privacy": {"epsilon": 1.0, "sampling_rate": 0.5},
    "training": {"weight_decay": 0.0, "epochs_per_round": 2},
    "rounds": {"weighting": "equal", "count": 2},
}


@pytest.fixture
def experiment(
    tmp_path: Path, tiny_federation: Callable[..., Federation], write_records: Callable[..., Path]
) -> Callable[..., Path]:
    """Writes an experiment file of one institution; keyword tables change its federation."""

    def write(**tables: Any) -> Path:
        federation = tiny_federation(["law_firm"], tasks=TASKS, **PRIVATE | tables)
        records = str(write_records(tmp_path / "clauses.jsonl", "clauses"))
        file = tmp_path / "experiment.toml"
        file.write_text(
            tomli_w.dumps(
                {
                    "federation": federation.model_dump(mode="json", exclude_none=True),
                    "institutions": {"law_firm": {"clauses": {"train": records}, "words": {"train": records}}},
                }
            )
        )
        return file

    return write


def run(file: Path, tmp_path: Path, **plan: Any) -> TrainingAudit:
    work = tmp_path / "work"
    work.mkdir()
    return audit_training(file, Plan(**plan), workdir=work, announce=lambda _: None)


def test_honest_training_passes(experiment: Callable[..., Path], tmp_path: Path) -> None:
    found = run(experiment(), tmp_path, canaries=300)
    assert found.reported == pytest.approx(1.0, abs=0.01)
    assert found.bound.epsilon < 0.9
    assert not found.violated
    assert 0.42 < found.membership.auc < 0.75  # seen through the noise, a little
    assert len(found.scores_in) + len(found.scores_out) == 300


@pytest.mark.parametrize("clipping", ["flat", "automatic"])
def test_a_tenth_of_the_noise_is_found_out(experiment: Callable[..., Path], tmp_path: Path, clipping: str) -> None:
    file = experiment(privacy=PRIVATE["privacy"] | {"clipping": clipping, "clip": 0.3})
    found = run(file, tmp_path, canaries=300, noise_factor=0.1)
    assert found.reported == pytest.approx(1.0, abs=0.01)
    assert found.bound.epsilon > 1.5
    assert found.violated


def test_without_noise_the_bound_is_near_its_ceiling_and_scores_are_contributions(
    experiment: Callable[..., Path], tmp_path: Path
) -> None:
    found = run(experiment(), tmp_path, canaries=300, noise_factor=0.0)
    assert found.bound.epsilon > 3.0
    assert found.violated
    assert set(found.scores_out) == {0.0}
    steps = 2 * 4
    np.testing.assert_allclose(np.round(found.scores_in), found.scores_in, atol=1e-4)  # an owner counts once a step
    assert max(found.scores_in) <= steps + 1e-4
    assert np.mean(found.scores_in) == pytest.approx(steps / 2, abs=0.5)


def test_clipping_records_instead_of_owners_shows(
    experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_record(examples: Any, owners: Any) -> list[list[Any]]:
        return [[example] for example in examples]

    monkeypatch.setattr(dpsgd, "by_owner", by_record)
    found = run(experiment(), tmp_path, canaries=100, noise_factor=0.0)
    assert max(found.scores_in) > 8.5  # more than once in each of 8 steps


def test_text_canaries_join_the_training_of_the_whole_federation(
    experiment: Callable[..., Path], tmp_path: Path
) -> None:
    found = run(experiment(), tmp_path, kind="text", canaries=60)
    assert (found.task, found.institution) == ("clauses", "law_firm")
    assert found.reported == pytest.approx(1.0, abs=0.01)
    assert not found.violated


def test_memorised_text_canaries_are_found(experiment: Callable[..., Path], tmp_path: Path) -> None:
    plain = {
        "privacy": None,
        "training": {"epochs_per_round": 40, "learning_rate": 0.02, "batch_tokens": 2048},
        "rounds": {"count": 1},
    }
    found = run(experiment(**plain), tmp_path, kind="text", canaries=60)
    assert found.reported is None
    assert not found.violated
    assert found.membership.low > 0.55
    assert np.mean(found.scores_in) > np.mean(found.scores_out)


@pytest.mark.parametrize("task", ["clauses", "words"])
def test_planted_secrets_have_an_exposure(
    experiment: Callable[..., Path], tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "ALTERNATIVES", 31)
    found = run(experiment(), tmp_path, kind="secrets", task=task, canaries=20)
    assert len(found.exposure_in) + len(found.exposure_out) == 20
    assert all(0 <= bits <= 5 for bits in (*found.exposure_in, *found.exposure_out))


def test_coins_follow_the_seed(experiment: Callable[..., Path]) -> None:
    file = experiment(training={"epochs_per_round": 0, "weight_decay": 0.0})
    sizes = []
    for seed in (1, 1, 2):
        found = audit_target(file, Plan(canaries=100, seed=seed), announce=lambda _: None)
        assert isinstance(found, TrainingAudit)
        sizes.append(len(found.scores_in))
    assert sizes[0] == sizes[1] != sizes[2]


@pytest.mark.parametrize(
    ("plan", "privacy", "told"),
    [
        (Plan(institution="bank"), True, "--institution to be one of"),
        (Plan(canaries=5), True, "at least 20 canaries"),
        (Plan(task="clauses"), True, "no --task"),
        (Plan("text", task="words"), True, "text-classification for --kind text at law_firm"),
        (Plan(), False, r"\[federation.privacy\]"),
        (Plan("text", noise_factor=0.0), False, r"\[federation.privacy\]"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    experiment: Callable[..., Path], tmp_path: Path, plan: Plan, privacy: bool, told: str
) -> None:
    file = experiment(**({} if privacy else {"privacy": None}))
    with pytest.raises(ConfigError, match=told):
        audit_target(file, plan, announce=lambda _: None)


def test_there_must_be_a_global_model_to_audit(experiment: Callable[..., Path]) -> None:
    file = experiment(privacy=None, personal={"keep": ["heads"]})
    with pytest.raises(ConfigError, match="keep heads at home"):
        audit_target(file, Plan("text"), announce=lambda _: None)


def test_the_verb_writes_a_page_and_exits_with_1_on_a_violation(
    experiment: Callable[..., Path], tmp_path: Path
) -> None:
    file, out = experiment(), tmp_path / "out"
    arguments = ["audit", str(file), "--out", str(out), "--canaries", "200"]
    honest = CliRunner().invoke(app, [*arguments, "--json"])
    assert honest.exit_code == 0
    told = json.loads(honest.stdout)
    assert told == json.loads((out / "audit.json").read_text())
    assert told["violated"] is False
    assert told["bound"]["epsilon"] <= told["reported"]
    broken = CliRunner().invoke(app, [*arguments, "--noise-factor", "0"])
    assert broken.exit_code == 1
    assert "the guarantee is broken" in broken.stdout
    page = (out / "audit.html").read_text()
    assert "the guarantee is broken" in page
    assert page.count("<svg") == 2
    assert "http" not in page
    assert "src=" not in page


@pytest.fixture
def bundle(tmp_path: Path, tiny_federation: Callable[..., Federation]) -> Path:
    """A bundle that finds every text likely to be about payments."""
    federation = tiny_federation(tasks={"clauses": TASKS["clauses"]})
    model = build_model(federation)
    state = get_state(model)
    bias = next(name for name in state if name.endswith("linear.bias"))
    state[bias] = np.array([2.0, -2.0], dtype=np.float32)
    folder = tmp_path / "bundle"
    return write_bundle(folder, federation, state, {}, metrics={"settings": {}}, readme="")


def records(path: Path, label: str, count: int, start: int = 0) -> Path:
    lines = [json.dumps({"text": f"Clause {n} of the contract.", "label": label}) for n in range(start, start + count)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_bundle_that_likes_its_members_is_found_out(bundle: Path, tmp_path: Path) -> None:
    members = records(tmp_path / "members.jsonl", "payment", 40)
    others = records(tmp_path / "others.jsonl", "liability", 50, 100)
    out = tmp_path / "out"
    files = ["--members", str(members), "--others", str(others), "--out", str(out)]
    told = CliRunner().invoke(app, ["audit", str(bundle), "--task", "clauses", *files, "--json"])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["by_loss"]["auc"] == found["by_drop"]["auc"] == 1.0
    assert [rate["true_positive_rate"] for rate in found["by_drop"]["rates"]] == [1.0, 1.0]
    assert not any(rate["resolved"] for rate in found["by_drop"]["rates"])
    assert "Too few others" in (out / "audit.html").read_text()


def test_records_of_one_kind_are_not_told_apart(bundle: Path, tmp_path: Path) -> None:
    members = records(tmp_path / "members.jsonl", "payment", 60)
    others = records(tmp_path / "others.jsonl", "payment", 60, 100)
    found = audit_bundle(bundle, members=members, others=others, task="clauses")
    assert found.by_drop.low <= 0.5 + 0.2
    assert found.by_drop.auc < 0.8
    write_report(found, tmp_path)


def test_bundle_options_that_do_not_fit_are_refused(
    bundle: Path, tmp_path: Path, experiment: Callable[..., Path]
) -> None:
    members = records(tmp_path / "members.jsonl", "payment", 20)
    quiet = {"announce": lambda _: None}
    with pytest.raises(ConfigError, match="--task, --members and --others"):
        audit_target(bundle, Plan(), members=members, **quiet)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Expected the folder of a bundle"):
        audit_target(experiment(), Plan(), members=members, **quiet)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="20 are"):
        audit_bundle(bundle, members=members, others=members, task="clauses")
    with pytest.raises(DataError, match="at least 10"):
        audit_bundle(bundle, members=members, others=records(tmp_path / "few.jsonl", "payment", 3, 50), task="clauses")


def test_the_gradient_of_a_canary_is_its_own_coordinate(tiny_federation: Callable[..., Federation]) -> None:
    model, task = build_model(tiny_federation()), Dirac(5)
    model.tasks[task.name] = task
    model.add_head(task.name, DiracHead(task.canaries))
    batch = model.collate(task.encode([{"canary": 3}], model.tokenizer, 64))
    model.losses(batch, model(batch))[task.name].sum().backward()  # type: ignore[no-untyped-call]
    (weight,) = model.heads[task.name].parameters()
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [0.0, 0.0, 0.0, -STEEPNESS, 0.0]
