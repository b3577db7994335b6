"""Whatever happens on a model, it is afterwards as it was, but for what was trained."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from client.round.steady import HOOKS, steady
from client.service.executor import TaskInterruptedError
from client.site import Site
from shared.errors import DataError, ProtocolError
from shared.model.lora import FARTHEST, frozen, lora_layers, set_trained


def hooks(site: Site) -> int:
    return sum(len(getattr(module, kind)) for module in site.model.modules() for kind in HOOKS)


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site("clauses", rounds={"method": "fedex"})


@pytest.mark.parametrize("error", [None, DataError, TaskInterruptedError, RuntimeError])
def test_nothing_is_left_behind(site: Site, error: type[BaseException] | None) -> None:
    model, before = site.model, hooks(site)
    trainable = [parameter.requires_grad for parameter in model.parameters()]

    def work() -> None:
        with steady(model):
            set_trained(model.encoder, ())
            model.train()
            layer: Any = next(iter(lora_layers(model.encoder).values()))
            layer.register_forward_hook(lambda *_: None)
            layer.register_full_backward_hook(lambda *_: None)
            layer.activations = [torch.zeros(1)]
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
                parameter.grad_sample = torch.zeros(1)  # type: ignore[attr-defined]
            if error:
                raise error("as it happens")

    if error:
        with pytest.raises(error):
            work()
    else:
        work()
    assert hooks(site) == before
    assert not model.training
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
    assert not any(hasattr(module, "activations") for module in model.modules())
    assert all(p.grad is None and not hasattr(p, "grad_sample") for p in model.parameters())


def steps(site: Site, value: float, rank: int = 1) -> Any:
    return {
        name: (
            np.full((frozen(layer).out_features, rank), value, np.float32),
            np.ones((rank, frozen(layer).in_features), np.float32),
        )
        for name, layer in lora_layers(site.model.encoder).items()
    }


def weights(site: Site) -> list[torch.Tensor]:
    return [frozen(layer).weight.detach().clone() for layer in lora_layers(site.model.encoder).values()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_move_is_undone_where_the_request_is_refused_after_it(site: Site) -> None:
    base, original = site.model.base, weights(site)
    with steady(site.model):
        base.move(steps(site, 0.5), since="", version="r1:1")
    moved, added = weights(site), dict(base.added)
    assert not same(moved, original)

    def move_and_fail(since: str, version: str) -> None:
        with steady(site.model):
            base.move(steps(site, 0.25), since=since, version=version)
            assert not same(weights(site), moved)
            raise DataError("as it happens")

    for since, version in (("r1:1", "r1:2"), ("", "r2:1")):
        with pytest.raises(DataError):
            move_and_fail(since, version)
        assert same(weights(site), moved)
        assert (base.version, base.added) == ("r1:1", added)
    base.reset()
    assert same(weights(site), original)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, FARTHEST])
def test_a_move_is_whole_or_not_at_all(site: Site, value: float) -> None:
    base, original, planted = site.model.base, weights(site), steps(site, 0.5)
    planted[list(planted)[-1]] = steps(site, value)[list(planted)[-1]]
    with pytest.raises(ProtocolError, match="move a layer by at most"):
        base.move(planted, since="", version="r1:1")
    assert same(weights(site), original)
    assert (base.version, dict(base.added)) == ("", {})
