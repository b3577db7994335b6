"""Importance against the paper's equations, weight by weight; and what it depends on."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from client.site import Site
from client.train import trainer
from client.train.hooks import Hook
from client.train.importance import Importance
from shared.adapter import get_state, set_state
from shared.model.lora import factors, lora_layers

MakeSite = Callable[..., Site]


def gradients(site: Site, seed: int) -> None:
    """Put random weights and gradients on the adapter, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for layer in lora_layers(site.model.encoder).values():
        for parameter in factors(layer).values():
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            parameter.grad = torch.randn(parameter.shape, generator=generator)


def slow_scores(steps: list[tuple[np.ndarray, ...]]) -> list[float]:
    """S_k by equations alone; each step is A, its gradient, B, its gradient."""

    def smoothed(sensitivities: list[float]) -> float:
        mean = uncertainty = 0.0
        for sensitivity in sensitivities:
            mean = 0.85 * mean + 0.15 * sensitivity
            uncertainty = 0.85 * uncertainty + 0.15 * abs(sensitivity - mean)
        return mean * uncertainty

    rank, inputs = steps[0][0].shape
    outputs = steps[0][2].shape[0]
    found = []
    for k in range(rank):
        scale = smoothed([abs(sum(b[i, k] * gb[i, k] for i in range(outputs))) for _, _, b, gb in steps])
        columns = [smoothed([abs(b[i, k] * gb[i, k]) for _, _, b, gb in steps]) for i in range(outputs)]
        rows = [smoothed([abs(a[k, j] * ga[k, j]) for a, ga, _, _ in steps]) for j in range(inputs)]
        found.append(scale + sum(columns) / outputs + sum(rows) / inputs)
    return found


def test_scores_equal_a_slow_loop_over_the_papers_equations(make_site: MakeSite) -> None:
    site = make_site("clauses", adapter={"rank": 3, "target_modules": ["query", "dense"]})
    importance, steps = Importance(site.model.encoder), dict[str, list[tuple[np.ndarray, ...]]]()
    for step in range(4):
        gradients(site, step)
        importance.on_gradient()
        for name, layer in lora_layers(site.model.encoder).items():
            pair = factors(layer)
            a, b = pair["A"], pair["B"]
            steps.setdefault(name, []).append(
                tuple(t.detach().double().numpy().copy() for t in (a, a.grad, b, b.grad) if t is not None)
            )
    slow = {name: slow_scores(taken) for name, taken in steps.items()}
    total = sum(map(sum, slow.values()))
    shares = importance.shares()
    assert shares.keys() == slow.keys()
    for name, scores in slow.items():
        np.testing.assert_allclose(shares[name], np.array(scores) / total, rtol=1e-4)
    assert sum(float(array.sum()) for array in shares.values()) == pytest.approx(1.0, abs=1e-5)


def test_the_derivative_by_a_components_scale_is_the_sum_over_either_factor(make_site: MakeSite) -> None:
    site = make_site("clauses")
    trainer.train(site.model, site.examples("train"), site.federation.training, seed=1)  # B leaves zero
    batch = site.model.collate(site.examples("train"))
    site.model.zero_grad()
    site.model.losses(batch, site.model(batch))["clauses"].mean().backward()  # type: ignore[no-untyped-call]
    for layer in lora_layers(site.model.encoder).values():
        pair = factors(layer)
        by_a, by_b = ((p * torch.as_tensor(p.grad)).detach().numpy() for p in (pair["A"], pair["B"]))
        np.testing.assert_allclose(by_a.sum(1), by_b.sum(0), rtol=1e-2, atol=1e-6)


def test_how_a_components_length_is_shared_does_not_matter(make_site: MakeSite) -> None:
    site = make_site("clauses")
    plain, stretched = Importance(site.model.encoder), Importance(site.model.encoder)
    for step in range(2):
        gradients(site, step)
        plain.on_gradient()
        for layer in lora_layers(site.model.encoder).values():
            pair = factors(layer)
            for parameter, by in ((pair["A"], 8.0), (pair["B"], 0.125)):
                assert parameter.grad is not None
                parameter.data *= by
                parameter.grad /= by
        stretched.on_gradient()
    for name, shares in plain.shares().items():
        np.testing.assert_allclose(stretched.shares()[name], shares, rtol=1e-5)


def test_watching_changes_nothing_and_sees_every_step(make_site: MakeSite) -> None:
    site = make_site("clauses", training={"batch_tokens": 64})
    start, training = get_state(site.model), site.federation.training
    trainer.train(site.model, site.examples("train"), training, seed=1)
    plain = get_state(site.model)
    set_state(site.model, start)
    calls: list[bool] = []

    class Watch(Hook):
        def on_gradient(self) -> None:
            pair = factors(next(iter(lora_layers(site.model.encoder).values())))
            calls.append(pair["B"].grad is not None)

    outcome = trainer.train(site.model, site.examples("train"), training, seed=1, hooks=[Watch()])
    assert calls == [True] * outcome.steps
    assert all(np.array_equal(plain[name], array) for name, array in get_state(site.model).items())


def test_without_a_step_every_share_is_zero(make_site: MakeSite) -> None:
    site = make_site("clauses")
    assert not any(array.any() for array in Importance(site.model.encoder).shares().values())
