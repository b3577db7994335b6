"""Our forward pass of a BERT with LoRA is peft's own: states, gradients, after every change, and where it gives way."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from shared.federation import Federation
from shared.federation.methods import METHODS
from shared.model.encoder import Encoder
from shared.model.lora import lora_layers
from shared.model.multitask import MultiTaskModel, build_model
from shared.model.packed import Adapted, pack

Make = Callable[..., Federation]
LENGTHS = {
    "of many lengths": (9, 3, 17, 1, 8, 12, 17),
    "of one length": (11, 11, 11),
    "one row": (5,),
    "full": (16, 16),
}


def model_of(make: Make, **tables: Any) -> MultiTaskModel:
    """A model whose factors are all away from zero."""
    model = build_model(make(**tables))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if ".lora_B." in name or ".core." in name:
                parameter.normal_(0, 0.3)
    return model


def batch_of(lengths: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids, types = torch.randint(5, 100, mask.shape), torch.randint(0, 2, mask.shape)
    return ids * mask, mask, types * mask


def passed(forward: Callable[..., torch.Tensor], model: MultiTaskModel, batch: Any) -> tuple[torch.Tensor, ...]:
    """States where there is text, and the gradients of everything trained."""
    torch.manual_seed(2)
    states = forward(*batch)
    weights = torch.randn(states.shape) * batch[1][..., None]
    trained = [parameter for parameter in model.encoder.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad((states.float() * weights).sum(), trained)
    return states[batch[1].bool()].detach().float(), *gradients


def pefts(model: MultiTaskModel) -> Callable[..., torch.Tensor]:
    return lambda ids, mask, types: (
        model.encoder(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
    )


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize(
    "adapter",
    [
        {},
        {"target_modules": "query,value"},
        {"target_modules": ["dense"], "rslora": True},
        {"layers": "top-1"},
        {"layers": [0]},
    ],
)
def test_states_and_gradients_are_pefts(
    tiny_federation: Make, lengths: tuple[int, ...], adapter: Mapping[str, Any]
) -> None:
    model = model_of(tiny_federation, adapter=adapter)
    assert Encoder(model.encoder).is_known()
    batch = batch_of(lengths)
    for ours, theirs in zip(
        passed(Encoder(model.encoder), model, batch), passed(pefts(model), model, batch), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.frozen])
@pytest.mark.parametrize("round", [1, 2])
def test_every_method_trains_the_same(tiny_federation: Make, method: str, round: int) -> None:
    from shared.model.lora import set_trained

    model = model_of(tiny_federation, rounds={"method": method})
    set_trained(model.encoder, METHODS[method].factors(round))  # type: ignore[index]
    batch = batch_of((9, 3, 17))
    for ours, theirs in zip(
        passed(Encoder(model.encoder), model, batch), passed(pefts(model), model, batch), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layers", ["all", "top-1"])
def test_bfloat16_is_as_near_to_float32_as_autocast_is(tiny_federation: Make, layers: str) -> None:
    model = model_of(tiny_federation, adapter={"layers": layers})
    ours, theirs = Encoder(model.encoder), pefts(model)
    far: dict[str, list[float]] = {"ours": [], "theirs": []}
    for seed in range(5):
        torch.manual_seed(seed)
        batch = batch_of(tuple(torch.randint(3, 40, (12,)).tolist()))
        exact = passed(theirs, model, batch)
        with torch.autocast("cpu", torch.bfloat16):
            found = {"ours": passed(ours, model, batch), "theirs": passed(theirs, model, batch)}
        for side, arrays in found.items():
            far[side] += [float((a - b).norm() / b.norm()) for a, b in zip(arrays, exact, strict=True)]
    means = {side: sum(values) / len(values) for side, values in far.items()}
    assert 0 < means["ours"] <= 1.1 * means["theirs"]


def test_frozen_weights_that_move_are_seen(tiny_federation: Make) -> None:
    model = model_of(tiny_federation)
    batch, encoder = batch_of((9, 3)), Encoder(model.encoder)
    with torch.inference_mode():
        before = encoder(*batch)
    layer = next(iter(lora_layers(model.encoder).values())).get_base_layer()
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.add_(0.1)
    after = encoder(*batch)
    assert not torch.allclose(before[batch[1].bool()], after[batch[1].bool()])
    torch.testing.assert_close(after[batch[1].bool()], pefts(model)(*batch)[batch[1].bool()], atol=1e-5, rtol=1e-5)


def test_training_goes_on_after_prediction(tiny_federation: Make) -> None:
    model = model_of(tiny_federation)
    encoder, batch = Encoder(model.encoder), batch_of((9, 3))
    with torch.inference_mode():
        encoder(*batch)
    passed(encoder, model, batch)


def test_what_it_does_not_know_is_pefts(tiny_federation: Make) -> None:
    model = model_of(tiny_federation, adapter={"dropout": 0.5})
    encoder = Encoder(model.encoder)
    assert not encoder.is_known()
    model.encoder.eval()
    assert encoder.is_known()
    handle = model.encoder.get_base_model().embeddings.word_embeddings.register_forward_hook(lambda *_: None)  # type: ignore[union-attr]
    assert not encoder.is_known()
    handle.remove()
    with model.encoder.disable_adapter():
        assert not encoder.is_known()
    assert encoder.is_known()


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_row_that_is_not_finite_spoils_no_other(tiny_federation: Make, bad: int) -> None:
    model = model_of(tiny_federation)
    ids, mask, types = batch_of((9, 3, 17))
    word, encoder, others = 150, Encoder(model.encoder), [row for row in range(3) if row != bad]
    wanted = encoder(ids, mask, types)[others]
    bert: Any = model.encoder.get_base_model()
    with torch.no_grad():
        bert.embeddings.word_embeddings.weight[word] = torch.inf
    ids[bad, 0] = word
    spoilt = encoder(ids, mask, types)
    assert not spoilt[bad, : int(mask[bad].sum())].isfinite().all()
    there = mask[others].bool()
    torch.testing.assert_close(spoilt[others][there], wanted[there], atol=0, rtol=0)


def test_layout() -> None:
    packing = pack(torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]))
    assert packing.tokens.tolist() == [0, 1, 2, 4, 12, 13, 14, 15]
    assert packing.positions.tolist() == [0, 1, 2, 0, 0, 1, 2, 3]
    filled = packing.filled(torch.ones(8, 2))
    assert filled.shape == (64, 2)
    assert filled.sum() == 16
    (group,) = packing.groups
    assert (group.rows, group.length) == (3, 8)
    assert group.padding is not None
    assert group.padding.sum(1).tolist() == [5, 7, 4]


@pytest.mark.parametrize("adapter", [{}, {"layers": "top-1"}])
def test_products_come_in_few_sizes(
    tiny_federation: Make, adapter: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sizes, forward = model_of(tiny_federation, adapter=adapter), set[int](), Adapted.forward

    def watch(ctx: Any, inputs: torch.Tensor, *others: Any) -> torch.Tensor:
        sizes.add(len(inputs))
        return forward(ctx, inputs, *others)

    monkeypatch.setattr(Adapted, "forward", staticmethod(watch))
    for count in range(1, 30, 3):
        passed(Encoder(model.encoder), model, batch_of((*(9, 3, 17, 11, 16)[: 1 + count % 5], count)))
    assert sizes == {64, 128}


def test_pieces_go_to_the_groups_and_back() -> None:
    packing = pack((torch.arange(20) < torch.tensor([3, 1, 20, 9])[:, None]).long())
    tokens = packing.filled(torch.randn(33, 2 * 3 * 4))
    pieces, flat = packing.pieces(2, 3), tokens.view(-1, 4)
    groups = [flat[index] for index in pieces.taken]
    for group, taken in zip(packing.groups, groups, strict=True):
        assert len(taken) == 2 * group.rows * 3 * group.length
        second = taken.view(2, group.rows, 3, group.length, 4)[1, :, 2]  # of the last head
        torch.testing.assert_close(second, tokens[group.index, 20:].view(second.shape), atol=0, rtol=0)
    assert torch.equal(torch.cat(groups)[pieces.back], flat[: 33 * 2 * 3])
