"""States that a site loads: those that any text can pass through, and no others."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from client.round.states import LONGEST
from client.site import Site
from client.train import trainer
from shared import codec
from shared.adapter import factor_of, get_state, of_tasks
from shared.codec import Arrays
from shared.model.lora import FARTHEST
from shared.protocol import Refusal, TrainReply, TrainRequest

MakeSite = Callable[..., Site]


def train(site: Site, arrays: Arrays, **more: Any) -> Any:
    state = codec.encode(arrays, "float32")
    return site.answer(
        TrainRequest(spec_digest=site.federation.digest, run="r1", round=1, rounds=2, state=state, **more)
    )


def state_of(site: Site) -> Arrays:
    return of_tasks(get_state(site.model), site.data.keys())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, LONGEST])
@pytest.mark.parametrize("part", ["adapter/", "head/"])
def test_values_that_are_not_finite_or_absurd_are_refused_before_a_record_is_read(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch, value: float, part: str
) -> None:
    site = make_site("clauses")
    arrays = state_of(site)
    name = next(name for name in arrays if name.startswith(part) and arrays[name].size > 1)
    arrays[name] = np.full_like(arrays[name], value)
    monkeypatch.setattr(Site, "examples", None)
    monkeypatch.setattr(trainer, "train", None)
    before = get_state(site.model)
    refused = train(site, arrays)
    assert isinstance(refused, Refusal)
    assert refused.kind == "request"
    assert "norm at most" in refused.reason
    now = get_state(site.model)
    assert all(np.array_equal(now[key], array) for key, array in before.items())


def test_a_layer_that_is_moved_absurdly_far_is_refused_though_its_factors_are_small(make_site: MakeSite) -> None:
    site = make_site("clauses")
    arrays = state_of(site)
    for name in arrays:
        if factor_of(name):
            arrays[name] = np.full_like(arrays[name], 40.0)
    refused = train(site, arrays)
    assert isinstance(refused, Refusal)
    assert "of each layer" in refused.reason


def test_the_largest_state_that_is_believed_overflows_on_no_text(make_site: MakeSite) -> None:
    site = make_site("clauses")
    rng = np.random.default_rng(0)
    arrays = state_of(site)
    for name, array in arrays.items():
        draw = rng.normal(size=array.shape)
        most = np.sqrt(0.99 * FARTHEST / 2) if factor_of(name) else 1000.0  # alpha / rank is 2
        arrays[name] = (draw * most / np.linalg.norm(draw)).astype(np.float32)
    assert isinstance(train(site, arrays), TrainReply)
    for name, parameter in site.model.encoder.named_parameters():  # the products at their worst: one direction
        if ".lora_" in name:
            with torch.no_grad():
                parameter.copy_(torch.full_like(parameter, float(np.sqrt(FARTHEST / 2 / parameter.numel()))))
    for logits in trainer.infer(site.model, site.examples("train"), precision="float32"):
        assert np.isfinite(logits).all()


def test_after_a_refusal_the_next_honest_request_is_answered_as_if_nothing_had_been(make_site: MakeSite) -> None:
    site, other = make_site("clauses"), make_site("clauses")
    good = state_of(site)
    bad = {name: np.full_like(array, np.nan) for name, array in good.items()}
    for _ in range(2):
        assert isinstance(train(site, bad), Refusal)
    first, second = train(site, good), train(other, good)
    assert isinstance(first, TrainReply)
    assert first.update == second.update
