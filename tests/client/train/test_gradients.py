"""The gradient of one batch, against single examples and single tasks."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from client.site import Site
from client.train.batching import micro_batches
from client.train.gradients import Measured, accumulate, last_shared_layer
from shared.federation import Training
from shared.model.losses import project_conflicts
from shared.tasks import Example

MakeSite = Callable[..., Site]
TASKS = ("clauses", "entities", "notes_qa")
EXACT = {"head_dropout": 0.0, "precision": "float32"}


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    clauses = {"type": "text-classification", "labels": ["payment", "liability"], "weight": 2.0}
    site = make_site(*TASKS, training=EXACT, tasks={"clauses": clauses})
    with torch.no_grad():  # fresh B factors are zero, and with them the gradients of A
        for parameter in site.model.encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    site.model.train()
    return site


def gradients(site: Site, measure: Callable[[], object]) -> dict[str, torch.Tensor]:
    """What `measure` adds to each trained parameter's gradient."""
    trained = {name: p for name, p in site.model.named_parameters() if p.requires_grad}
    for parameter in trained.values():
        parameter.grad = None
    measure()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in trained.items()}


def assert_close(fast: dict[str, torch.Tensor], slow: dict[str, torch.Tensor]) -> None:
    largest = max(float(tensor.abs().max()) for tensor in slow.values())
    for name, tensor in slow.items():
        assert float((fast[name] - tensor).abs().max()) < 1e-5 * largest, name


def run(site: Site, training: Training, factors: dict[str, float] | None = None) -> Measured:
    return accumulate(site.model, site.examples("train"), training, factors or {}, np.random.default_rng(0))


@pytest.mark.parametrize("pass_cost", [1, 10_000])
def test_weights_and_factors_multiply_rows(site: Site, monkeypatch: pytest.MonkeyPatch, pass_cost: int) -> None:
    monkeypatch.setattr("client.train.batching.PACKED_PASS", pass_cost)
    assert (len(micro_batches(site.examples("train"))) > 1) == (pass_cost == 1)
    examples, factors = site.examples("train"), {"clauses": 0.5, "notes_qa": 3.0}

    def slowly() -> None:
        for example in examples:
            batch = site.model.collate([example])
            (loss,) = site.model.losses(batch, site.model(batch)).values()
            weight = site.federation.tasks[example.task].weight * factors.get(example.task, 1.0)
            (weight * loss.sum() / len(examples)).backward()  # type: ignore[no-untyped-call]

    assert site.federation.tasks["clauses"].weight == 2.0
    assert_close(gradients(site, lambda: run(site, site.federation.training, factors)), gradients(site, slowly))


def test_pcgrad_projects_the_adapter_and_leaves_the_heads(site: Site) -> None:
    examples = site.examples("train")
    per_task = []
    for task in dict.fromkeys(example.task for example in examples):
        own = [example for example in examples if example.task == task]
        weight = site.federation.tasks[task].weight * len(own) / len(examples)

        def alone(own: list[Example] = own, weight: float = weight) -> None:
            batch = site.model.collate(own)
            (loss,) = site.model.losses(batch, site.model(batch)).values()
            (weight * loss.mean()).backward()  # type: ignore[no-untyped-call]

        per_task.append(gradients(site, alone))
    slow = {name: sum((g[name] for g in per_task), torch.zeros_like(per_task[0][name])) for name in per_task[0]}
    plain = dict(slow)
    adapter = [name for name in slow if name.startswith("encoder.")]
    projected = project_conflicts([[g[name] for name in adapter] for g in per_task], np.random.default_rng(0))
    slow |= dict(zip(adapter, projected, strict=True))

    training = site.federation.training.model_copy(update={"combine": "pcgrad"})
    fast = gradients(site, lambda: run(site, training))
    assert_close(fast, slow)
    assert any(not torch.allclose(plain[name], slow[name]) for name in adapter), "nothing was in conflict"


def test_norms_are_measured_only_for_gradnorm_and_on_the_last_layer(site: Site) -> None:
    training = site.federation.training
    assert run(site, training).norms == {}
    measured = run(site, training.model_copy(update={"combine": "gradnorm"}))
    names = [name for name, p in site.model.named_parameters() if p.requires_grad and ".layer.1." in name]
    assert len(names) == len(last_shared_layer(site.model)) > 0
    examples = site.examples("train")
    for task, norm in measured.norms.items():

        def alone(task: str = task) -> None:
            batch = site.model.collate(examples)
            losses = site.model.losses(batch, site.model(batch))
            (losses[task].sum() / len(examples)).backward()  # type: ignore[no-untyped-call]

        found = gradients(site, alone)
        assert norm == pytest.approx(float(torch.sqrt(sum((found[n] ** 2).sum() for n in names))), rel=1e-4)  # type: ignore[arg-type]


def test_losses_are_per_row_and_unweighted(site: Site) -> None:
    measured = run(site, site.federation.training)
    examples = site.examples("train")
    assert {task: len(values) for task, values in measured.losses.items()} == {
        task: sum(example.task == task for example in examples) for task in TASKS
    }
    for task in TASKS:
        batches = [site.model.collate([example]) for example in examples if example.task == task]
        alone = [site.model.losses(batch, site.model(batch))[task].item() for batch in batches]
        assert sorted(measured.losses[task].tolist()) == pytest.approx(sorted(alone), abs=1e-5)
    assert measured.means()["clauses"] == pytest.approx(float(measured.losses["clauses"].mean()))
