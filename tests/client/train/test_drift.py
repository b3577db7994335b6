"""FedProx and SCAFFOLD inside the one trainer, against slow loops."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from client.privacy.dpsgd import private_steps
from client.privacy.owners import Private
from client.site import Site
from client.train import trainer
from client.train.drift import Correction, Proximal, anchors, correct, corrections, pull, renew
from client.train.gradients import accumulate
from shared.adapter import get_state, set_state, task_of, tensors
from shared.federation import Privacy

MakeSite = Callable[..., Site]
SGD = {
    "optimizer": "sgd",
    "momentum": 0.0,
    "learning_rate": 0.5,
    "schedule": "constant",
    "warmup": 0.0,
    "weight_decay": 0.0,
    "head_dropout": 0.0,
    "batch_tokens": 100_000,
}


def displace(site: Site, seed: int) -> None:
    rng = np.random.default_rng(seed)
    state = get_state(site.model)
    set_state(site.model, {n: (a + 0.05 * rng.normal(size=a.shape)).astype(np.float32) for n, a in state.items()})


def test_the_pull_is_the_gradient_of_the_penalty(make_site: MakeSite) -> None:
    site = make_site("clauses", "entities", training=SGD)
    model, mu = site.model, 0.3
    held = anchors(model, ["clauses", "entities"])
    displace(site, 1)
    batch = [example for example in site.examples("train") if example.task == "clauses"]
    accumulate(model, batch, site.federation.training, {}, np.random.default_rng(0))
    pull(held, mu)
    got = {name: p.grad.clone() if p.grad is not None else None for name, p in tensors(model).items()}

    model.zero_grad(set_to_none=True)
    collated = model.collate(batch)
    (losses,) = model.losses(collated, model(collated)).values()
    penalty = sum(((p - anchor) ** 2).sum() for p, anchor in held)
    (losses.mean() + mu / 2 * penalty).backward()  # type: ignore[no-untyped-call]
    for name, parameter in tensors(model).items():
        if task_of(name) == "notes_qa":
            assert got[name] is None, "a head that the site does not hold is left alone"
            continue
        assert parameter.grad is not None
        torch.testing.assert_close(got[name], parameter.grad, atol=1e-6, rtol=1e-4)
        assert task_of(name) != "entities" or parameter.grad.any(), "without a row in the batch, the penalty alone"


def test_proximal_training_equals_a_slow_loop_over_the_penalised_loss(make_site: MakeSite) -> None:
    site = make_site("clauses", training=SGD | {"epochs_per_round": 3, "proximal_mu": 0.7})
    model, start, examples = site.model, get_state(site.model), site.examples("train")
    trainer.train(model, examples, site.federation.training, seed=1)
    fast = get_state(model)

    set_state(model, start)
    parameters = [p for name, p in tensors(model).items() if task_of(name) in (None, "clauses")]
    origin = [p.detach().clone() for p in parameters]
    for _ in range(3):
        model.zero_grad(set_to_none=True)
        batch = model.collate(examples)
        (losses,) = model.losses(batch, model(batch)).values()
        penalty = sum(((p - w) ** 2).sum() for p, w in zip(parameters, origin, strict=True))
        (losses.mean() + 0.35 * penalty).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        with torch.no_grad():
            for parameter in parameters:
                assert parameter.grad is not None
                parameter.sub_(parameter.grad, alpha=0.5)
    slow = get_state(model)
    moved = max(float(np.abs(slow[name] - start[name]).max()) for name in start)
    for name, array in slow.items():
        np.testing.assert_allclose(fast[name], array, atol=1e-3 * moved, err_msg=name)


def test_a_stronger_pull_stays_nearer(make_site: MakeSite) -> None:
    site = make_site("clauses", training=SGD | {"epochs_per_round": 6})
    start, distances = get_state(site.model), []
    for mu in (0.0, 0.5, 2.0):
        set_state(site.model, start)
        training = site.federation.training.model_copy(update={"proximal_mu": mu, "learning_rate": 0.2})
        trainer.train(site.model, site.examples("train"), training, seed=1)
        now = get_state(site.model)
        distances.append(sum(float(((now[name] - start[name]) ** 2).sum()) for name in start))
    assert distances[0] > 1.05 * distances[1] > 1.05**2 * distances[2]


def test_under_privacy_the_pull_joins_after_the_noise(make_site: MakeSite) -> None:
    """Gradients are clipped and noised down to nothing here, and the pull is all that is left."""
    site = make_site("clauses", training=SGD)
    model, rate, mu = site.model, 0.1, 0.5
    examples = site.examples("train")
    private = Private(
        Privacy(noise_multiplier=1e-3, clip=1e-9),
        noise_multiplier=1e-3,
        owners={(example.task, example.record): str(example.record) for example in examples},
    )
    held, proximal = anchors(model, ["clauses"]), Proximal(mu)
    proximal.begin(model, ["clauses"])
    displace(site, 1)
    before = {name: p.detach().clone() for name, p in tensors(model).items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    model.train()
    with private_steps(model, site.federation.training, private, optimizer, [proximal]) as step:
        step(examples[:4], {})
    anchored = dict(held)
    for name, parameter in tensors(model).items():
        expected = before[name]
        if parameter in anchored:
            expected = expected - rate * mu * (expected - anchored[parameter])
        torch.testing.assert_close(parameter.detach(), expected, atol=1e-7, rtol=1e-6)


def test_a_correction_shifts_every_step_and_leaves_by_the_renewal(make_site: MakeSite) -> None:
    """One step: what the renewed c_i is, is the clipped gradient, whatever the correction was."""
    site = make_site("clauses", training=SGD | {"head_learning_rate": 0.1})
    model, start, examples = site.model, get_state(site.model), site.examples("train")
    accumulate(model, examples, site.federation.training, {}, np.random.default_rng(0))
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
    gradient = {name: p.grad.clone().numpy() for name, p in tensors(model).items() if p.grad is not None}
    rng = np.random.default_rng(3)
    own, c = (
        {name: (0.02 * rng.normal(size=a.shape)).astype(np.float32) for name, a in gradient.items()} for _ in range(2)
    )
    outcome = trainer.train(
        model,
        examples,
        site.federation.training,
        seed=1,
        hooks=[Correction({name: c[name] - own[name] for name in c})],
    )
    assert outcome.rates[0] == 0.5
    assert outcome.rates[1] == pytest.approx(0.1)
    update = {name: array - start[name] for name, array in get_state(model).items()}
    change = renew(c, update, outcome.rates)
    for name, expected in gradient.items():
        np.testing.assert_allclose(own[name] + change[name], expected, atol=2e-5, err_msg=name)
        assert np.abs(change[name]).max() > 1e-3


def test_a_correction_of_nothing_is_plain_sgd_bitwise(make_site: MakeSite) -> None:
    site = make_site("clauses", "entities", training=SGD | {"epochs_per_round": 2, "batch_tokens": 256})
    start = get_state(site.model)
    trainer.train(site.model, site.examples("train"), site.federation.training, seed=1)
    plain = get_state(site.model)
    set_state(site.model, start)
    nothing = {name: np.zeros_like(array) for name, array in start.items()}
    trainer.train(site.model, site.examples("train"), site.federation.training, seed=1, hooks=[Correction(nothing)])
    assert all(array.tobytes() == plain[name].tobytes() for name, array in get_state(site.model).items())


def test_corrections_leave_heads_of_others_and_frozen_factors_alone(make_site: MakeSite) -> None:
    site = make_site("clauses", training=SGD, rounds={"method": "ffa"})
    ones = {name: np.ones_like(array) for name, array in get_state(site.model).items()}
    held = corrections(site.model, ["clauses"], ones)
    names = {id(parameter): name for name, parameter in tensors(site.model).items()}
    corrected = {names[id(parameter)] for parameter, _ in held}
    assert any(".lora_B." in name for name in corrected)
    assert any(name.startswith("head/clauses/") for name in corrected)
    assert not any(".lora_A." in name or name.startswith("head/entities/") for name in corrected)
    site.model.zero_grad(set_to_none=True)
    correct(held)
    correct(held)
    assert all(p.grad is not None and torch.equal(p.grad, 2 * torch.ones_like(p)) for p, _ in held)


def test_no_step_renews_nothing() -> None:
    (change,) = renew({"adapter/x": np.ones((2, 2), np.float32)}, {"adapter/x": np.zeros((2, 2))}, (0.0, 0.0)).values()
    assert not change.any()
