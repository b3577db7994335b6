"""The training loop against a slow, obvious one, and what it must never depend on."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
import torch

from client.site import Site
from client.train import trainer
from client.train.hooks import Progress
from client.train.optimizers import WARM_STEPS, learning_rate
from shared.adapter import get_state, set_state
from shared.errors import TrainingError
from shared.federation import Training
from shared.model.balancing import BALANCERS

MakeSite = Callable[..., Site]
NO_DROPOUT = {"head_dropout": 0.0, "precision": "float32", "batch_tokens": 100_000, "learning_rate": 1e-2}


def test_one_batch_equals_a_slow_loop_over_single_examples(make_site: MakeSite) -> None:
    site = make_site("clauses", "entities", "notes_qa", training=NO_DROPOUT)
    model, start, examples = site.model, get_state(site.model), site.examples("train")
    outcome = trainer.train(model, examples, site.federation.training, seed=1)
    fast = get_state(model)

    set_state(model, start)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    for example in examples:  # one row at a time, so no padding and no mixing
        batch = model.collate([example])
        (loss,) = model.losses(batch, model(batch)).values()
        (loss.mean() / len(examples)).backward()  # type: ignore[no-untyped-call]
    norm = torch.sqrt(sum((p.grad**2).sum() for p in parameters if p.grad is not None))  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate(site.federation.training, 0.0), weight_decay=0.01)
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad *= min(1.0, 1.0 / float(norm))
    optimizer.step()
    slow = get_state(model)

    assert outcome.steps == 1
    moved = max(float(np.abs(slow[name] - start[name]).max()) for name in start)
    assert moved > 1e-5
    for name, array in slow.items():
        np.testing.assert_allclose(fast[name], array, atol=moved * 0.02, err_msg=name)


def test_the_same_seed_gives_the_same_state_and_another_does_not(make_site: MakeSite) -> None:
    site = make_site("clauses", "entities")
    start = get_state(site.model)

    def run(seed: int) -> dict[str, np.ndarray]:
        set_state(site.model, start)
        torch.rand(seed)  # whatever else used the global generator
        trainer.train(site.model, site.examples("train"), site.federation.training, seed=seed)
        return get_state(site.model)

    first, again, other = run(3), run(3), run(4)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_training_leaves_the_callers_random_numbers_alone(make_site: MakeSite) -> None:
    site = make_site("clauses")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    trainer.train(site.model, site.examples("train"), site.federation.training, seed=5)
    assert torch.equal(torch.rand(3), expected)


def test_only_the_adapter_and_the_heads_in_use_move(make_site: MakeSite) -> None:
    site = make_site("clauses")
    before = {name: p.detach().clone() for name, p in site.model.named_parameters()}
    trainer.train(site.model, site.examples("train"), site.federation.training, seed=1)
    moved = {name for name, p in site.model.named_parameters() if not torch.equal(p, before[name])}
    assert any("lora_A" in name for name in moved)
    assert any("lora_B" in name for name in moved)
    assert all("lora_" in name or name.startswith("heads.clauses.") for name in moved)


def test_it_learns(make_site: MakeSite) -> None:
    site = make_site("clauses", "entities", training={"learning_rate": 2e-2, "epochs_per_round": 15})
    first = trainer.train(site.model, site.examples("train"), Training(precision="float32"), seed=1)
    last = trainer.train(site.model, site.examples("train"), site.federation.training, seed=2)
    for task, loss in last.losses.items():
        assert loss < 0.6 * first.losses[task], task


@pytest.mark.parametrize("combine", ["fixed", "dwa"])
def test_a_round_ends_after_the_step_in_which_its_time_is_over(make_site: MakeSite, combine: str) -> None:
    options = {"epochs_per_round": 3, "batch_tokens": 100, "combine": combine}
    site = make_site("clauses", "entities", training=options | {"max_seconds": 1e-9})
    examples = site.examples("train")
    outcome = trainer.train(site.model, examples, site.federation.training, seed=1)
    assert outcome.steps == 1
    assert outcome.losses
    rates = outcome.rates
    whole = site.federation.training.model_copy(update={"max_seconds": 3600.0})
    later = trainer.train(site.model, examples, whole, seed=1)
    assert later.steps > 8
    assert later.rates[0] > rates[0] > 0


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "learning_rate": 1.0, "schedule": "cosine"},
        {"adversarial_epsilon": 0.1, "schedule": "constant"},
    ],
)
def test_it_learns_by_every_craft(make_site: MakeSite, options: dict[str, object]) -> None:
    options = {"learning_rate": 2e-2, "epochs_per_round": 15} | options
    site = make_site("clauses", "entities", training=options, adapter={"rslora": True, "target_modules": "query,value"})
    first = trainer.train(site.model, site.examples("train"), Training(precision="float32"), seed=1)
    last = trainer.train(site.model, site.examples("train"), site.federation.training, seed=2)
    for task, loss in last.losses.items():
        assert loss < 0.7 * first.losses[task], task


@pytest.mark.parametrize("combine", BALANCERS)
def test_it_learns_however_losses_combine(make_site: MakeSite, combine: str) -> None:
    options = {"learning_rate": 2e-2, "epochs_per_round": 12, "combine": combine, "sampling": "temperature"}
    site = make_site("clauses", "entities", training=options)
    first = trainer.train(site.model, site.examples("train"), Training(precision="float32"), seed=1)
    last = trainer.train(site.model, site.examples("train"), site.federation.training, seed=2)
    for task, loss in last.losses.items():
        assert loss < 0.7 * first.losses[task], task


def test_a_balance_goes_on_from_round_to_round(make_site: MakeSite) -> None:
    site = make_site("clauses", "entities", training={"combine": "dwa"})
    factors = []
    balance = None
    for round in (1, 2, 3):
        training = site.federation.training
        stage = trainer.Stage(round, 3, balance)
        outcome = trainer.train(site.model, site.examples("train"), training, seed=1, stage=stage)
        balance = outcome.balance
        assert balance["last"] == outcome.losses
        factors.append(BALANCERS["dwa"].weights(balance))
    assert factors[0] == {"clauses": 1.0, "entities": 1.0}
    assert factors[1] != factors[0]
    assert sum(factors[2].values()) == pytest.approx(2.0)


@pytest.mark.parametrize("combine", ["fixed", "pcgrad"])
def test_a_balance_that_moves_nothing_is_the_same_training(make_site: MakeSite, combine: str) -> None:
    """One task alone: nothing to weigh, nothing in conflict. By SGD, since Adam steps as far along rounding noise."""
    site = make_site("clauses", training=NO_DROPOUT | {"optimizer": "sgd"})
    start = get_state(site.model)
    trainer.train(site.model, site.examples("train"), site.federation.training, seed=1)
    plain = get_state(site.model)
    set_state(site.model, start)
    training = site.federation.training.model_copy(update={"combine": combine})
    trainer.train(site.model, site.examples("train"), training, seed=1)
    for name, array in get_state(site.model).items():
        np.testing.assert_allclose(array, plain[name], atol=1e-6)


def test_a_loss_that_is_not_finite_stops_training(make_site: MakeSite) -> None:
    site = make_site("clauses")
    with torch.no_grad():
        next(iter(site.model.heads["clauses"].parameters())).fill_(float("nan"))
    with pytest.raises(TrainingError, match="finite training loss"):
        trainer.train(site.model, site.examples("train"), site.federation.training, seed=1)


def test_no_epochs_change_nothing(make_site: MakeSite) -> None:
    site = make_site("clauses", training={"epochs_per_round": 0})
    start = get_state(site.model)
    outcome = trainer.train(site.model, site.examples("train"), site.federation.training, seed=1)
    assert outcome.steps == 0
    assert all(np.array_equal(start[name], array) for name, array in get_state(site.model).items())


def test_seeds_differ_by_site_and_round() -> None:
    seeds = {trainer.derive_seed(13, name, round) for name in ("bank", "hospital") for round in (1, 2)}
    assert len(seeds) == 4
    assert trainer.derive_seed(13, "bank", 1) == trainer.derive_seed(13, "bank", 1)


def test_a_round_begins_with_small_steps(make_site: MakeSite) -> None:
    few = {
        "batch_tokens": 16,
        "epochs_per_round": 2,
        "warmup": 0.0,
        "schedule": "constant",
        "weight_decay": 0.0,
        "clip_norm": 1e9,
    }
    site = make_site("clauses", training=NO_DROPOUT | few)
    for round in (1, 2):
        states = [get_state(site.model)]
        trainer.train(
            site.model,
            site.examples("train"),
            site.federation.training,
            seed=round,
            stage=trainer.Stage(round, 2),
            hooks=[Progress(lambda *_, states=states: states.append(get_state(site.model)))],
        )
        moved = [max(float(np.abs(b[n] - a[n]).max()) for n in a) for a, b in pairwise(states)]
        # AdamW's first step moves by the whole rate, 1e-2, wherever there is a gradient.
        assert moved[0] == pytest.approx(1e-2 / 5, rel=1e-2)
        assert len(moved) > 2 * WARM_STEPS
        assert max(moved[WARM_STEPS:]) > 1e-2 / 2


def test_progress_is_told_of_every_step(make_site: MakeSite) -> None:
    site = make_site("clauses")
    told: list[tuple[int, int]] = []
    progress = Progress(lambda *now: told.append(now))
    outcome = trainer.train(site.model, site.examples("train"), site.federation.training, seed=1, hooks=[progress])
    assert told == [(step + 1, outcome.steps) for step in range(outcome.steps)]


@pytest.mark.parametrize("combine", ["fixed", "dwa", "pcgrad"])
def test_within_an_epoch_nothing_is_read_back_from_the_device(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch, combine: str
) -> None:
    """On torch's `meta` device, which has shapes and no values: whatever asks for one raises."""
    tables = {"batch_tokens": 100, "epochs_per_round": 2, "combine": combine, "proximal_mu": 0.1}
    site = make_site("clauses", "entities", "notes_qa", training=tables)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # `meta` knows no such thing
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    epochs: list[int] = []

    def read(rows: Mapping[str, list[torch.Tensor]]) -> dict[str, float]:
        assert {values.device.type for column in rows.values() for values in column} == {"meta"}
        epochs.append(sum(len(values) for column in rows.values() for values in column))
        return dict.fromkeys(rows, 1.0)

    monkeypatch.setattr(trainer, "_means", read)
    outcome = trainer.train(site.model.to("meta"), site.examples("train"), site.federation.training, seed=1)
    assert outcome.steps > 4
    assert epochs == [len(site.examples("train"))] * 2
