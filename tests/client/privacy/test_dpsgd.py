"""DP-SGD against slow loops: owners' gradients, clipping, noise, sampling; and the traps of several tasks."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from opacus.grad_sample.grad_sample_module import GradSampleHooks

from client.privacy import dpsgd
from client.privacy.dpsgd import (
    STABILITY,
    owner_batches,
    owner_gradients,
    per_example_gradients,
    private_optimizer,
    private_step,
)
from client.privacy.owners import Private, poisson_batches, steps_per_round
from client.privacy.randomness import Stream
from client.train import trainer
from shared.federation import Federation, Privacy, Training
from shared.federation.methods import METHODS
from shared.model.encoder import Encoder
from shared.model.lora import set_trained
from shared.model.multitask import MultiTaskModel, build_model
from shared.tasks import Example

MakeFederation = Callable[..., Federation]
TASKS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "sentiment": (
        {"type": "text-classification", "labels": ["good", "bad"]},
        [{"text": "Well done.", "label": "good"}, {"text": "That was bad, and late, and dear.", "label": "bad"}],
    ),
    "pair": (
        {"type": "text-pair-classification", "labels": ["yes", "no"]},
        [{"text_a": "Does it help?", "text_b": "It helped all.", "label": "yes"}],
    ),
    "similar": (
        {"type": "sentence-similarity", "high": 5},
        [{"text_a": "She pays.", "text_b": "She is paying.", "score": 4}],
    ),
    "relation": (
        {"type": "relation-extraction", "labels": ["none", "treats"], "no_relation": "none"},
        [{"tokens": ["Aspirin", "eases", "pain"], "head": [0, 1], "tail": [2, 3], "label": "treats"}],
    ),
    "entities": (
        {"type": "token-classification", "types": ["Drug"]},
        [
            {"tokens": ["No", "aspirin"], "tags": ["O", "B-Drug"]},
            {"tokens": ["She", "takes", "insulin", "."], "tags": ["O", "O", "B-Drug", "O"]},
        ],
    ),
    "qa": (
        {"type": "question-answering", "doc_stride": 8},
        [
            {
                "context": "The nurse came at noon. " * 8 + "Take ten mg.",
                "question": "How much?",
                "answers": [{"text": "ten mg", "start": 8 * 24 + 5}],
            }
        ],
    ),
    "summary": (
        {"type": "extractive-summarization", "summary_sentences": 1},
        [{"sentences": ["It rains.", "She pays.", "All is well."], "summary": ["She pays."], "oracle": [1]}],
    ),
    "plain_summary": (
        {"type": "extractive-summarization", "head": "linear", "sentence_state": "cls"},
        [{"sentences": ["It rains.", "She pays."], "summary": ["She pays."], "oracle": [1]}],
    ),
    "masked": ({"type": "fill-mask"}, [{"text": "She pays ten euros."}, {"text": "He was paid ten euros on Monday."}]),
    "reply": ({"type": "text-generation"}, [{"source": "It rained all day.", "target": "It was wet."}]),
    "next": (
        {"type": "next-sentence-prediction", "strangers": "document"},
        [{"sentences": ["It rains.", "So she takes the bus.", "It is late.", "He waits."]}],
    ),
}
EXACT: dict[str, Any] = {"head_dropout": 0.0, "precision": "float32", "weight_decay": 0.0, "batch_tokens": 4096}
PRIVACY = Privacy(noise_multiplier=1.0, sampling_rate=0.5, clip=0.05)


def private(owners: dict[tuple[str, int], str], noise: float = 0.0, **changes: Any) -> Private:
    return Private(PRIVACY.model_copy(update=changes), noise, owners)


def build(
    tiny_federation: MakeFederation, *names: str, method: str = "fedavg", **training: Any
) -> tuple[MultiTaskModel, list[Example]]:
    """A model whose B factors are not zero, in training mode, and the examples of the named tasks."""
    tasks = {name: TASKS[name][0] for name in names}
    federation = tiny_federation(tasks=tasks, training=EXACT | training, rounds={"method": method})
    federation = federation.model_copy(update={"tasks": {n: s for n, s in federation.tasks.items() if n in names}})
    model = build_model(federation)
    with torch.no_grad():
        for parameter in trained(model):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    model.train()
    return model, [e for n in names for e in model.tasks[n].encode(TASKS[n][1], model.tokenizer, 48)]


def trained(model: MultiTaskModel) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def slowly(model: MultiTaskModel, examples: Sequence[Example]) -> list[torch.Tensor]:
    """The gradient of the sum of the examples' losses, one example at a time by autograd alone."""
    for parameter in trained(model):
        parameter.grad = None
    for example in examples:
        batch = model.collate([example])
        (loss,) = model.losses(batch, model(batch)).values()
        (model.tasks[example.task].weight * loss.sum()).backward()  # type: ignore[no-untyped-call]
    found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in trained(model)]
    for parameter in trained(model):
        parameter.grad = None
    return found


def by_record(examples: Sequence[Example]) -> list[list[Example]]:
    keys = list(dict.fromkeys((example.task, example.record) for example in examples))
    return [[e for e in examples if (e.task, e.record) == key] for key in keys]


def assert_owners(model: MultiTaskModel, owners: list[list[Example]], training: Training) -> None:
    with per_example_gradients(model):
        fast = owner_gradients(model, owners, training)
    for number, owner in enumerate(owners):
        slow = slowly(model, owner)
        largest = max(float(tensor.abs().max()) for tensor in slow)
        for own, expected in zip(fast, slow, strict=True):
            assert float((own[number] - expected).abs().max()) < 1e-5 * largest


@pytest.mark.parametrize("name", TASKS)
def test_owners_gradients_equal_a_slow_loop_for_every_task(tiny_federation: MakeFederation, name: str) -> None:
    """One owner per record, and the classification's beside them, in the same micro-batch."""
    model, examples = build(tiny_federation, name, *({"sentiment"} - {name}))
    assert_owners(model, by_record(examples), Training.model_validate(EXACT))


def test_an_owner_of_several_tasks_and_windows_is_one_sum(tiny_federation: MakeFederation) -> None:
    model, examples = build(tiny_federation, "sentiment", "entities", "qa")
    assert sum(example.task == "qa" for example in examples) > 1, "no windows"
    owners = [[e for e in examples if e.record == 0], [e for e in examples if e.record == 1]]
    assert_owners(model, owners, Training.model_validate(EXACT))


def test_an_owner_larger_than_a_micro_batch_passes_in_parts(tiny_federation: MakeFederation) -> None:
    model, examples = build(tiny_federation, "qa", "sentiment")
    training = Training.model_validate(EXACT | {"batch_tokens": 64})
    batches = owner_batches(by_record(examples), training.batch_tokens)
    assert max(len(owner) for batch in batches for owner in batch) * 48 > training.batch_tokens
    for batch in batches:
        assert_owners(model, [list(owner) for owner in batch], training)


@pytest.mark.parametrize(("packed", "sizes"), [(False, [2, 2, 1]), (True, [4, 1])])
def test_a_micro_batch_counts_what_passes(packed: bool, sizes: list[int]) -> None:
    owners = [[Example("a", record, [0] * 9, [0] * 9, {})] for record in range(5)]
    assert [len(batch) for batch in owner_batches(owners, 36, packed=packed)] == sizes


def by_hooks(model: MultiTaskModel, owners: list[list[Example]], training: Training) -> list[torch.Tensor]:
    """As opacus tells each row's gradient of a forward pass of peft's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "is_known", lambda self: False)
        with per_example_gradients(model):
            return owner_gradients(model, owners, training)


def packed(model: MultiTaskModel, owners: list[list[Example]], training: Training) -> list[torch.Tensor]:
    assert model.packs
    with per_example_gradients(model):
        assert not any(module._forward_hooks for module in model.encoder.modules())
        return owner_gradients(model, owners, training)


def assert_as_by_hooks(model: MultiTaskModel, owners: list[list[Example]]) -> None:
    training = Training.model_validate(EXACT)
    for ours, theirs in zip(packed(model, owners, training), by_hooks(model, owners, training), strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        assert float((ours - theirs).abs().max()) <= 1e-6 * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("names", [("sentiment", "entities", "qa"), ("pair", "masked"), ("summary", "reply", "next")])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_packed_pass_tells_owners_as_hooks_do(
    tiny_federation: MakeFederation, names: tuple[str, ...], rows: int
) -> None:
    """Owners of one row each, and of `rows` of any length and task."""
    model, examples = build(tiny_federation, *names)
    examples = examples * rows
    assert len({len(example) for example in examples}) > 1, "rows of one length"
    assert_as_by_hooks(model, [examples[start::rows] for start in range(rows)] if rows > 1 else [[e] for e in examples])


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.frozen])
@pytest.mark.parametrize("round", [1, 2])
def test_every_method_tells_owners_as_hooks_do(tiny_federation: MakeFederation, method: str, round: int) -> None:
    model, examples = build(tiny_federation, "sentiment", "entities", method=method)
    set_trained(model.encoder, METHODS[method].factors(round))  # type: ignore[index]
    assert_as_by_hooks(model, [[examples[0], examples[2]], [examples[1]], [examples[3]]])


def test_bfloat16_tells_owners_no_worse_than_hooks_do(tiny_federation: MakeFederation) -> None:
    far = np.zeros(2)
    for seed in range(13, 19):  # of one model, either is the nearer by up to a tenth
        model, examples = build(partial(tiny_federation, seed=seed), "sentiment", "entities", "qa")
        owners = by_record(examples)
        exact = by_hooks(model, owners, Training.model_validate(EXACT))
        rough = Training.model_validate(EXACT | {"precision": "bfloat16"})
        far += [
            sum(float((one - other).norm() / other.norm()) for one, other in zip(found, exact, strict=True))
            for found in (packed(model, owners, rough), by_hooks(model, owners, rough))
        ]
    assert 0 < far[0] <= 1.05 * far[1]


def test_an_owners_gradient_rests_on_nobody_else(tiny_federation: MakeFederation) -> None:
    """And padding is nobody's: what stands there is not even finite."""
    model, examples = build(tiny_federation, "sentiment", "entities")
    owners = by_record(examples)
    for training in ({}, {"precision": "bfloat16"}):
        settings = Training.model_validate(EXACT | training)
        together = packed(model, owners, settings)
        with torch.no_grad():
            model.encoder.get_input_embeddings().weight[model.tokenizer.pad_token_id] = math.nan
        for number, owner in enumerate(owners):
            for one, other in zip(packed(model, [owner], settings), together, strict=True):
                torch.testing.assert_close(one[0], other[number], rtol=1e-5, atol=1e-7)
        with torch.no_grad():
            model.encoder.get_input_embeddings().weight[model.tokenizer.pad_token_id] = 0


def test_a_model_that_is_not_known_any_more_is_seen(mixed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, examples, _ = mixed
    with per_example_gradients(model):
        monkeypatch.setattr(Encoder, "is_known", lambda self: False)
        with pytest.raises(AssertionError, match="no owner's"):
            owner_gradients(model, by_record(examples), Training.model_validate(EXACT))


def test_hooks_equal_vmap(tiny_federation: MakeFederation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "is_known", lambda self: False)
    model, examples = build(tiny_federation, "sentiment", "entities", "summary")
    owners = by_record(examples)
    with per_example_gradients(model):
        by_opacus = owner_gradients(model, owners, Training.model_validate(EXACT))
    hooks = GradSampleHooks(model, loss_reduction="sum", force_functorch=True)
    by_vmap = owner_gradients(model, owners, Training.model_validate(EXACT))
    hooks.cleanup()
    for one, other in zip(by_opacus, by_vmap, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def stepped(
    model: MultiTaskModel, batch: Sequence[Example], settings: Private, training: Training, key: int | None = 0
) -> list[torch.Tensor]:
    """What a step of SGD with learning rate 1 takes from each parameter: the noisy mean gradient."""
    before = [parameter.detach().clone() for parameter in trained(model)]
    plain = torch.optim.SGD(trained(model), lr=1.0)
    with per_example_gradients(model):
        noisy = private_optimizer(plain, settings, None if key is None else Stream(bytes(31) + bytes([key])))
        private_step(model, batch, training, settings, noisy)
    moved = [old - new.detach() for old, new in zip(before, trained(model), strict=True)]
    with torch.no_grad():
        for parameter, old in zip(trained(model), before, strict=True):
            parameter.copy_(old)
    return moved


@pytest.fixture
def mixed(
    tiny_federation: MakeFederation,
) -> tuple[MultiTaskModel, list[Example], dict[tuple[str, int], str]]:
    model, examples = build(tiny_federation, "sentiment", "entities", "qa")
    owners = {key: "anna" if key[1] else "ben" for key in {(e.task, e.record) for e in examples}}
    owners["sentiment", 0] = "carla"
    return model, examples, owners


@pytest.mark.parametrize("clipping", ["flat", "automatic"])
@pytest.mark.parametrize("batch_tokens", [64, 4096])
def test_a_step_is_the_sum_of_clipped_owners(mixed: Any, clipping: str, batch_tokens: int) -> None:
    model, examples, owners = mixed
    settings = private(owners, clipping=clipping)
    expected = [torch.zeros_like(parameter) for parameter in trained(model)]
    clipped = 0
    for owner in sorted(set(owners.values())):
        gradient = slowly(model, [e for e in examples if owners[e.task, e.record] == owner])
        norm = math.sqrt(sum(float((tensor**2).sum()) for tensor in gradient))
        scale = 1 / (norm + STABILITY) if clipping == "automatic" else min(1.0, PRIVACY.clip / norm)
        clipped += scale < 1
        for total, tensor in zip(expected, gradient, strict=True):
            total += scale * tensor / (3 * PRIVACY.sampling_rate)
    assert clipped, "nothing was clipped"
    found = stepped(model, examples, settings, Training.model_validate(EXACT | {"batch_tokens": batch_tokens}))
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).abs().max()) < 1e-5


def test_the_divisor_is_the_expected_number_of_owners_whoever_was_drawn(mixed: Any) -> None:
    model, examples, owners = mixed
    one = [e for e in examples if owners[e.task, e.record] == "carla"]
    alone = stepped(model, one, private(owners), Training.model_validate(EXACT))
    gradient = slowly(model, one)
    norm = math.sqrt(sum(float((tensor**2).sum()) for tensor in gradient))
    for found, tensor in zip(alone, gradient, strict=True):
        assert float((found - tensor * min(1.0, PRIVACY.clip / norm) / 1.5).abs().max()) < 1e-5


@pytest.mark.parametrize(("clipping", "sensitivity"), [("flat", PRIVACY.clip), ("automatic", 1.0)])
def test_a_step_that_drew_nobody_is_noise_of_the_right_size(mixed: Any, clipping: str, sensitivity: float) -> None:
    model, _, owners = mixed
    settings = private(owners, 2.0, clipping=clipping)
    draws = [
        torch.cat([t.flatten() for t in stepped(model, [], settings, Training.model_validate(EXACT), s)])
        for s in range(27)
    ]
    noise = torch.cat(draws)
    assert len(noise) > 100_000
    expected = 2.0 * sensitivity / (3 * PRIVACY.sampling_rate)
    assert float(noise.std()) == pytest.approx(expected, rel=0.02)
    assert abs(float(noise.mean())) < 4 * expected / math.sqrt(len(noise))
    assert not torch.equal(draws[0], draws[1])


def test_noise_is_nobodys_to_know(mixed: Any) -> None:
    """Whatever torch was seeded with: the federation's seed is known to all."""
    model, _, owners = mixed
    draws = []
    for _ in range(2):
        torch.manual_seed(13)
        draws.append(stepped(model, [], private(owners, 1.0), Training.model_validate(EXACT), None)[0])
    assert not torch.equal(*draws)


def test_noise_does_not_depend_on_who_was_drawn(mixed: Any) -> None:
    model, examples, owners = mixed
    noisy = stepped(model, examples, private(owners, 2.0), Training.model_validate(EXACT), 5)
    plain = stepped(model, examples, private(owners, 0.0), Training.model_validate(EXACT), 5)
    nobody = stepped(model, [], private(owners, 2.0), Training.model_validate(EXACT), 5)
    for one, other, noise in zip(noisy, plain, nobody, strict=True):
        torch.testing.assert_close(one - other, noise, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("clipping", ["flat", "automatic"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_an_owner_that_overflows_counts_as_nobody(mixed: Any, value: float, clipping: str) -> None:
    """Seen to fail at the commit before: a DataError, which told that a record with this word is there."""
    model, examples, owners = mixed
    training, settings = Training.model_validate(EXACT), private(owners, clipping=clipping)
    others = [e for e in examples if owners[e.task, e.record] != "carla"]
    (planted,) = (e for e in examples if owners[e.task, e.record] == "carla")
    word = next(id for id in planted.input_ids if all(id not in e.input_ids for e in others))
    expected = stepped(model, others, settings, training)
    with torch.no_grad():
        model.encoder.get_input_embeddings().weight[word] = value
    for one, other in zip(stepped(model, examples, settings, training), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    for moved in stepped(model, [planted], settings, training):
        assert not moved.any()
    for one, other in zip(stepped(model, others, settings, training), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_losses_that_overflow_are_told_as_zero(mixed: Any) -> None:
    model, examples, owners = mixed
    with torch.no_grad():
        model.encoder.get_input_embeddings().weight.fill_(math.nan)
    with per_example_gradients(model):
        noisy = private_optimizer(torch.optim.SGD(trained(model), lr=1.0), private(owners))
        measured = private_step(model, examples, Training.model_validate(EXACT), private(owners), noisy)
    assert set(measured.losses) == {"sentiment", "entities", "qa"}
    assert measured.means() == dict.fromkeys(measured.losses, 0.0)


def test_the_mean_of_losses_too_large_for_float32_is_finite(mixed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, examples, owners = mixed
    monkeypatch.setattr(
        dpsgd, "_backward", lambda model, batch, *_: {"sentiment": torch.full((len(batch.input_ids),), 3e38)}
    )
    with per_example_gradients(model):
        noisy = private_optimizer(torch.optim.SGD(trained(model), lr=1.0), private(owners))
        measured = private_step(model, examples, Training.model_validate(EXACT), private(owners), noisy)
    assert measured.means() == pytest.approx({"sentiment": 3e38})


def test_a_gradient_too_long_to_measure_counts_as_nothing(mixed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number of it is finite, and its length is not."""
    model, examples, owners = mixed
    enormous = [parameter.new_full((1, *parameter.shape), 3e38) for parameter in trained(model)]
    monkeypatch.setattr(dpsgd, "owner_gradients", lambda model, owners, training, losses: enormous)
    monkeypatch.setattr(dpsgd, "owner_batches", lambda owners, *_, **__: [owners[:1]])
    for moved in stepped(model, examples, private(owners), Training.model_validate(EXACT)):
        assert not moved.any()


def test_nothing_is_left_of_a_training_that_failed(mixed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail at the commit before: activations stayed in every layer, and the next step failed on them."""
    model, examples, owners = mixed
    training = Training.model_validate(EXACT)
    expected = stepped(model, examples, private(owners), training)
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    hooks = [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()]

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    for broken in ("losses", "forward"):
        with monkeypatch.context() as patch:
            if broken == "losses":  # after all layers have run
                patch.setattr(model, "losses", fail)
            else:
                patch.setattr(dpsgd, "_gradients", fail)  # after the backward pass
            with pytest.raises(KeyboardInterrupt):
                stepped(model, examples, private(owners), training)
        assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
        assert [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()] == hooks
        assert all(parameter.grad is None and not vars(parameter) for parameter in trained(model))
        for one, other in zip(stepped(model, examples, private(owners), training), expected, strict=True):
            assert torch.equal(one, other)


def test_noise_is_added_wherever_the_parameters_are(mixed: Any) -> None:
    """The sum is noised in float64 and rounded once: what is added differs from the noise by one rounding alone."""
    model, examples, owners = mixed
    settings = private(owners, 2.0)
    parts = [parameter.numel() for parameter in trained(model)]
    noise = Stream(bytes(32)).noise(sum(parts)) * 2.0 * PRIVACY.clip / settings.expected_owners
    plain = stepped(model, examples, private(owners), Training.model_validate(EXACT))
    noisy = stepped(model, examples, settings, Training.model_validate(EXACT))
    for one, other, own in zip(noisy, plain, torch.split(noise, parts), strict=True):
        torch.testing.assert_close((one - other).flatten().double(), own, rtol=1e-4, atol=1e-6)


def test_bfloat16_clips_in_float32(tiny_federation: MakeFederation) -> None:
    model, examples = build(tiny_federation, "sentiment", "entities")
    owners = {(e.task, e.record): "anna" for e in examples}
    found = stepped(
        model, examples, private(owners, clip=0.01), Training.model_validate(EXACT | {"precision": "bfloat16"})
    )
    norm = math.sqrt(sum(float((tensor**2).sum()) for tensor in found)) * PRIVACY.sampling_rate
    assert norm == pytest.approx(0.01, rel=1e-3)
    assert norm <= 0.01 * (1 + 1e-5)


def test_a_record_changes_nobody_elses_gradient(tiny_federation: MakeFederation) -> None:
    """No loss is divided by what others bring, and no example holds another record's text."""
    model, examples = build(tiny_federation, *TASKS)
    owners = by_record(examples)
    with per_example_gradients(model):
        together = owner_gradients(model, owners, Training.model_validate(EXACT))
        fewer = owner_gradients(model, owners[1:], Training.model_validate(EXACT))
    for one, other in zip(together, fewer, strict=True):
        torch.testing.assert_close(one[1:], other, rtol=1e-4, atol=1e-5)
    records = TASKS["next"][1]
    task = model.tasks["next"]
    pool = [*records, {"sentences": ["Nobody came.", "The door was shut.", "They left.", "It was Monday."]}]
    alone = task.encode(records, model.tokenizer, 48)
    assert task.encode(pool, model.tokenizer, 48)[: len(alone)] == alone


def test_owners_are_drawn_by_a_coin_each_and_whole(tiny_federation: MakeFederation) -> None:
    _, examples = build(tiny_federation, "sentiment", "entities", "qa")
    owners = {key: f"{key[1]}" if key[0] != "qa" else "qa" for key in {(e.task, e.record) for e in examples}}
    settings = private(owners, sampling_rate=0.3)
    batches = poisson_batches(examples, settings, 4000, Stream(bytes(32)))
    drawn = [{owners[e.task, e.record] for e in batch} for batch in batches]
    for owner in set(owners.values()):
        own = sum(owners[e.task, e.record] == owner for e in examples)
        rate = sum(owner in names for names in drawn) / 4000
        assert rate == pytest.approx(0.3, abs=0.03)
        assert {sum(owners[e.task, e.record] == owner for e in batch) for batch in batches} == {0, own}
    both = sum({"0", "1"} <= names for names in drawn) / 4000
    assert both == pytest.approx(0.09, abs=0.02)
    assert any(not batch for batch in batches)


def test_at_a_rate_of_one_everybody_is_in_every_step(tiny_federation: MakeFederation) -> None:
    _, examples = build(tiny_federation, "sentiment", "entities")
    owners = {(e.task, e.record): f"{e.task} {e.record}" for e in examples}
    batches = poisson_batches(examples, private(owners, sampling_rate=1.0), 8)
    assert [len(batch) for batch in batches] == [len(examples)] * 8


@pytest.mark.parametrize(
    ("epochs", "rate", "steps"), [(1, 0.1, 10), (2, 0.3, 7), (1, 1.0, 1), (8, 1.0, 8), (0, 0.1, 0)]
)
def test_steps_do_not_depend_on_the_data(epochs: int, rate: float, steps: int) -> None:
    settings = Privacy(noise_multiplier=1.0, sampling_rate=rate)
    assert steps_per_round(settings, Training(epochs_per_round=epochs)) == steps


def test_gradients_left_from_before_are_no_part_of_a_step(tiny_federation: MakeFederation) -> None:
    model, examples = build(tiny_federation, "sentiment", "entities")
    start = [parameter.detach().clone() for parameter in trained(model)]
    for parameter in trained(model):
        parameter.grad = torch.full_like(parameter, 1e6)
    owners = {(e.task, e.record): f"{e.task} {e.record}" for e in examples}
    optimizer = torch.optim.SGD(trained(model), lr=1.0)
    settings = private(owners, 0.0, clip=1.0)
    with dpsgd.private_steps(model, Training.model_validate(EXACT), settings, optimizer) as step:
        step([example for example in examples if example.task == "sentiment"], {})  # a draw without the other task
    both = zip(trained(model), start, strict=True)
    assert 0 < max(float((parameter.detach() - before).abs().max()) for parameter, before in both) < 10


def test_training_learns_without_noise_and_ends_as_no_seed_tells(tiny_federation: MakeFederation) -> None:
    training: dict[str, Any] = {"epochs_per_round": 20, "learning_rate": 1e-2}
    model, examples = build(tiny_federation, "sentiment", "entities", **training)
    start = [parameter.detach().clone() for parameter in trained(model)]
    owners = {(e.task, e.record): f"{e.task} {e.record}" for e in examples}
    settings = private(owners, 0.0, clip=1.0)
    outcome = trainer.train(model, examples, Training.model_validate(EXACT | training), seed=1, private=settings)
    assert outcome.steps == 40
    assert max(trainer.train(model, examples, Training.model_validate(EXACT), seed=1).losses.values()) < 0.1
    ends = []
    for _ in range(2):
        with torch.no_grad():
            for parameter, value in zip(trained(model), start, strict=True):
                parameter.copy_(value)
        trainer.train(model, examples, Training.model_validate(EXACT), seed=1, private=private(owners, 1.0))
        ends.append(torch.cat([parameter.detach().flatten() for parameter in trained(model)]))
    assert not torch.equal(ends[0], ends[1]), "the same seed gave the same noise: whoever knows it can take it away"
    assert not hasattr(next(iter(trained(model))), "grad_sample")
