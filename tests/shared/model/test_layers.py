"""Layers below the lowest adapted one: computed once per text, and the rest as if they were computed every time."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from client.data.augmentation import Augmentation, open_rewording
from client.data.loading import TaskData
from client.learner import Holdings, Learner
from client.train import gradients, trainer
from shared.adapter import ADAPTER, tensors
from shared.errors import ConfigError
from shared.federation import Federation
from shared.fields import Split
from shared.model.encoder import Encoder
from shared.model.frozen import FrozenStates
from shared.model.lora import lora_layers
from shared.model.multitask import MultiTaskModel, build_model
from shared.tasks import Example, Record
from simulations.attacks.stage import TINY_RECORDS, TINY_TASKS

Make = Callable[..., Federation]
TOP = {"layers": "top-1"}


def examples_of(model: MultiTaskModel, task: str = "clauses") -> list[Example]:
    return model.tasks[task].encode(TINY_RECORDS[task][::3], model.tokenizer, 64)


def stepped(model: MultiTaskModel, examples: Sequence[Example]) -> list[torch.Tensor]:
    """The gradient of one batch, of everything that has one."""
    model.train().zero_grad(set_to_none=True)
    batch = model.collate(examples)
    losses = model.losses(batch, model(batch))
    torch.stack([values.sum() for values in losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def model_of(make: Make, **tables: Any) -> MultiTaskModel:
    """A model without dropout whose factors are all away from zero."""
    tables["adapter"] = TOP | tables.get("adapter", {})
    tables["training"] = {"head_dropout": 0.0} | tables.get("training", {})
    model = build_model(make(**tables))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, 0.3)
    return model


def passes_below(model: MultiTaskModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects how many texts are embedded, pass by pass."""
    seen, embedded = list[int](), Encoder._embedded

    def watch(self: Encoder, ids: torch.Tensor, types: torch.Tensor, packing: Any) -> torch.Tensor:
        seen.append(len(ids))
        return embedded(self, ids, types, packing)

    monkeypatch.setattr(Encoder, "_embedded", watch)
    return seen


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_what_is_remembered_changes_neither_states_nor_gradients(
    tiny_federation: Make, monkeypatch: pytest.MonkeyPatch, precision: str, dtype: torch.dtype
) -> None:
    model = model_of(tiny_federation)
    examples, seen = examples_of(model), passes_below(model, monkeypatch)
    remembering, forgetting = model._encode, Encoder(model.encoder)
    found = []
    for encoder in (forgetting, remembering, remembering):
        model._encode = encoder
        with torch.autocast("cpu", dtype, enabled=precision == "bfloat16"):
            found.append(stepped(model, examples))
    assert seen == [len(examples)] * 2  # nothing in the third pass
    assert remembering._lower is not None
    assert {states.dtype for states in remembering._lower._states.values()} == {dtype}
    for uncached, first, cached in zip(*found, strict=True):
        torch.testing.assert_close(first, uncached, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(cached, uncached, atol=1e-6, rtol=1e-6)


def test_texts_beyond_the_memory_are_computed_anew(tiny_federation: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(tiny_federation)
    examples, wanted = examples_of(model), stepped(model, examples_of(model))
    room = sum(len(example) for example in examples[:3]) * 32 * 4
    lower = FrozenStates(room)
    model._encode = Encoder(model.encoder, lower)
    seen = passes_below(model, monkeypatch)
    for _ in range(2):
        for ours, own in zip(stepped(model, examples), wanted, strict=True):
            torch.testing.assert_close(ours, own, atol=1e-6, rtol=1e-6)
    assert seen == [len(examples), len(examples) - 3]
    assert lower._bytes == room


def test_states_of_one_precision_do_not_serve_another(tiny_federation: Make) -> None:
    model = model_of(tiny_federation)
    wanted = stepped(model, examples_of(model))
    model._encode = Encoder(model.encoder, FrozenStates())
    with torch.autocast("cpu", torch.bfloat16):
        stepped(model, examples_of(model))
    for ours, own in zip(stepped(model, examples_of(model)), wanted, strict=True):
        torch.testing.assert_close(ours, own, atol=0, rtol=0)


def test_what_varies_is_not_remembered(tiny_federation: Make) -> None:
    tasks = {"clauses": TINY_TASKS["clauses"], "words": {"type": "fill-mask"}}
    model = model_of(tiny_federation, tasks=tasks)
    lower = model._encode._lower
    assert lower
    records = [{"text": record["text"]} for record in TINY_RECORDS["clauses"][::3]]
    held: dict[str, dict[Split, TaskData]] = {
        "clauses": {"train": _data(model, "clauses", TINY_RECORDS["clauses"][::3])},
        "words": {"train": _data(model, "words", records)},
    }
    federation = tiny_federation(tasks=tasks, adapter=TOP)
    learner = Learner("hospital", federation, model, Holdings(held))
    trainer.train(model, learner.examples("train"), federation.training, seed=1)
    assert len(lower._states) == len(records)  # the clauses alone: words are masked anew in every step
    reword = open_rewording(Augmentation(drop=0.5), model.tasks["clauses"])
    learner = Learner("hospital", federation, model, Holdings(held, {"clauses": reword}))
    before = set(lower._states)
    trainer.train(model, learner.examples("train"), federation.training, seed=1, augment=learner.augment)
    assert set(lower._states) == before


def test_perturbed_embeddings_are_not_remembered_ones(tiny_federation: Make) -> None:
    model = model_of(tiny_federation)
    training = tiny_federation(training={"head_dropout": 0.0, "adversarial_epsilon": 0.5}).training
    examples, found = examples_of(model), []
    for encoder in (Encoder(model.encoder), model._encode, model._encode):
        model._encode = encoder
        stepped(model, examples)  # so that the texts are known
        model.zero_grad(set_to_none=True)
        gradients.accumulate(model, examples, training, {}, np.random.default_rng(0))
        found.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    for uncached, once, twice in zip(*found, strict=True):
        torch.testing.assert_close(once, uncached, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(twice, uncached, atol=1e-6, rtol=1e-6)


def test_no_input_gradient_is_asked_for_below(tiny_federation: Make) -> None:
    model = model_of(tiny_federation)
    batch = model.collate(examples_of(model))
    low = model._encode._below(batch.input_ids, batch.attention_mask, batch.token_type_ids, torch.float32, ())
    assert not low.requires_grad


@pytest.mark.parametrize(
    ("layers", "numbers"), [("all", {0, 1}), ("top-1", {1}), ("top-2", {0, 1}), ([0], {0}), ([1, 0], {0, 1})]
)
def test_the_layers_named_are_adapted_and_have_the_same_names(
    tiny_federation: Make, layers: Any, numbers: set[int]
) -> None:
    every = {name: p.shape for name, p in tensors(build_model(tiny_federation())).items()}
    own = {name: p.shape for name, p in tensors(build_model(tiny_federation(adapter={"layers": layers}))).items()}
    wanted = {name for name in every if not name.startswith(ADAPTER) or int(name.split(".")[4]) in numbers}
    assert own == {name: every[name] for name in wanted}


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ("top-3", r'at most "top-2", since the backbone has 2 layers, not "top-3"'),
        ([1, 2, 7], r"among the backbone's 2 layers, 0 to 1, not \[2, 7\]"),
    ],
)
def test_a_layer_that_the_backbone_lacks_is_named(tiny_federation: Make, layers: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"adapter.layers must be {said}"):
        build_model(tiny_federation(adapter={"layers": layers}))


def test_balancing_by_gradients_looks_at_the_last_adapted_layer(tiny_federation: Make) -> None:
    model = model_of(tiny_federation, adapter={"layers": [0]})
    shared = gradients.last_shared_layer(model)
    assert len(shared) == 2 * len(lora_layers(model.encoder)) > 0
    training = tiny_federation(training={"combine": "gradnorm"}).training
    mixed = examples_of(model) + examples_of(model, "notes_qa")
    measured = gradients.accumulate(model, mixed, training, {}, np.random.default_rng(0))
    assert all(norm > 0 for norm in measured.norms.values())


def _data(model: MultiTaskModel, task: str, records: Sequence[Record]) -> TaskData:
    return TaskData(tuple(records), tuple(model.tasks[task].encode(records, model.tokenizer, 64)))
