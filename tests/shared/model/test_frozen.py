"""States of a frozen encoder: the encoder's own, computed once per text, and never more than the memory given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import BertConfig

from client.privacy.dpsgd import owner_gradients, per_example_gradients
from client.train.trainer import infer
from shared.federation import Federation
from shared.model.frozen import FrozenStates
from shared.model.multitask import MultiTaskModel, build_model
from shared.tasks import Example

Make = Callable[..., Federation]
TEXTS = ["The buyer pays.", "No.", "The tenant may leave " * 6]


@pytest.fixture
def model(tiny_federation: Make) -> MultiTaskModel:
    return build_model(tiny_federation(rounds={"method": "heads"}, training={"head_dropout": 0.0}))


def encoded(model: MultiTaskModel, *texts: str) -> list[Example]:
    records = [{"text": text, "label": "liability"} for text in texts]
    return model.tasks["clauses"].encode(records, model.tokenizer, 64)


def test_states_are_the_encoders_and_each_text_is_encoded_once(model: MultiTaskModel) -> None:
    cache, seen, model = FrozenStates(), list[int](), model.eval()

    def encode(*tensors: torch.Tensor) -> torch.Tensor:
        seen.append(len(tensors[0]))
        return model._encode(*tensors)

    for texts, fresh in (([0], [1]), ([1, 0], [1]), ([2, 0, 1], [1]), ([1, 2], []), ([2, 2], [])):
        batch = model.collate(encoded(model, *(TEXTS[i] for i in texts)))
        tensors = batch.input_ids, batch.attention_mask, batch.token_type_ids
        found, wanted = cache.of(*tensors, encode), model._encode(*tensors)
        assert not found.requires_grad
        mask = batch.attention_mask.bool()
        torch.testing.assert_close(found[mask], wanted[mask], atol=1e-5, rtol=1e-5)
        assert not found[~mask].any()
        assert seen == fresh
        seen.clear()


def test_a_pair_is_not_the_text_with_the_same_pieces(model: MultiTaskModel) -> None:
    cache = FrozenStates()
    ids, mask = torch.tensor([[101, 5, 6, 102]]), torch.ones(1, 4, dtype=torch.long)
    types = torch.tensor([[0, 0, 1, 1]])
    one, other = (cache.of(ids, mask, kind, model.eval()._encode) for kind in (types, torch.zeros_like(types)))
    assert not torch.allclose(one, other, atol=1e-3)


def test_memory_has_a_limit(model: MultiTaskModel) -> None:
    batch = model.eval().collate(encoded(model, *TEXTS))
    tensors = batch.input_ids, batch.attention_mask, batch.token_type_ids
    each = batch.attention_mask.sum(1) * 32 * 4
    cache, rows = FrozenStates(int(each[0] + each[1])), list[int]()

    def encode(*given: torch.Tensor) -> torch.Tensor:
        rows.append(len(given[0]))
        return model._encode(*given)

    first, second = cache.of(*tensors, encode), cache.of(*tensors, encode)
    assert rows == [3, 1]  # the third text did not fit
    assert cache._bytes == each[:2].sum()
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


def test_the_encoder_neither_learns_nor_drops_out(tiny_federation: Make, tiny_bert: Path) -> None:
    model = build_model(tiny_federation(rounds={"method": "heads"}, training={"head_dropout": 0.0}))
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    assert isinstance(model.encoder.config, BertConfig)
    model.train()
    assert model.heads["clauses"].training
    batch = model.collate(encoded(model, *TEXTS))
    model.frozen = FrozenStates()
    one = model(batch)["clauses"]
    model.frozen = FrozenStates()
    torch.testing.assert_close(model(batch)["clauses"], one)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {f"heads.{name}" for name, _ in model.heads.named_parameters()}


def test_states_known_from_scoring_serve_in_training(model: MultiTaskModel) -> None:
    examples = encoded(model, *TEXTS)
    infer(model, examples)  # in inference mode, whose tensors have no gradient
    plain = {}
    for name in ("cached", "fresh"):
        model.train().zero_grad()
        batch = model.collate(examples)
        model.losses(batch, model(batch))["clauses"].sum().backward()  # type: ignore[no-untyped-call]
        plain[name] = [parameter.grad.clone() for parameter in model.heads["clauses"].parameters()]  # type: ignore[union-attr]
        model.frozen = FrozenStates()
    for one, other in zip(*plain.values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_private_gradients_are_those_of_each_owner_alone(tiny_federation: Make) -> None:
    training = tiny_federation(rounds={"method": "heads"}, training={"head_dropout": 0.0}).training
    model = build_model(tiny_federation(rounds={"method": "heads"}, training={"head_dropout": 0.0})).train()
    examples = encoded(model, *TEXTS)
    with per_example_gradients(model):
        found = owner_gradients(model, [[examples[0], examples[2]], [examples[1]]], training)
    heads = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.frozen = FrozenStates()
    for owner, own in enumerate(([examples[0], examples[2]], [examples[1]])):
        model.zero_grad()
        for example in own:
            batch = model.collate([example])
            model.losses(batch, model(batch))["clauses"].sum().backward()  # type: ignore[no-untyped-call]
        for gradients, parameter in zip(found, heads, strict=True):
            wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(gradients[owner], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"training": {"combine": "pcgrad"}}, "training.combine must not be 'pcgrad'"),
        ({"training": {"combine": "gradnorm"}}, "training.combine must not be 'gradnorm'"),
        ({"training": {"adversarial_epsilon": 0.1}}, "training.adversarial_epsilon must be 0"),
        ({"adapter": {"type": "adalora"}}, "adapter.type must be 'lora'"),
        ({"personal": {"keep": ["heads"]}}, r"personal.keep must not be \('heads',\): nothing would be shared"),
        ({"personal": {"keep": ["B"]}}, "not 'heads': .* rounds that train no A"),
    ],
)
def test_what_needs_an_adapter_is_refused(tiny_federation: Make, tables: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        tiny_federation(rounds={"method": "heads"}, **tables)
