"""What a step of DP-SGD costs: beside a plain step of ours, and beside the same step by opacus as it is documented.

All sides pass the same records in one step, each record an owner of its own, with the adapter's A frozen (`fedsvd`) on
our sides, of which neither passes more than `training.batch_tokens` at once. The plain side cuts the records into the
trainer's batches; the private side takes every owner's gradient, clips, and adds noise from a cryptographic stream.
Opacus's side is `PrivacyEngine.make_private` of the peft model of `AutoModelForSequenceClassification`, in float32,
with both factors of LoRA trained, its records padded to the longest of 32 (`BatchMemoryManager`), and noise from
torch's generator.
"""

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from opacus import PrivacyEngine
from opacus.utils.batch_memory_manager import BatchMemoryManager
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding

from client.privacy.dpsgd import per_example_gradients, private_optimizer, private_step
from client.privacy.owners import Private
from client.privacy.randomness import Stream
from client.train.batching import training_batches
from client.train.gradients import accumulate
from client.train.optimizers import build_optimizer
from shared.federation import Privacy
from simulations.benchmarks.measured import (
    Asked,
    Cell,
    Comparison,
    Findings,
    Goal,
    Spread,
    Table,
    cpu_seconds,
    in_turns,
)
from simulations.benchmarks.training.scene import Scene, encoded, open_scene, peft_model

RECORDS, SMALL = 256, 16
PHYSICAL = 32
"""Records that opacus passes at once."""
PLAIN, PRIVATE, OPACUS, NOISE = "a plain step", "a private step", "opacus's step", "the noise of one step"
GOALS = {PLAIN: Goal(kind="at most", value=1.15), OPACUS: Goal(kind="below", value=1)}


def findings(asked: Asked) -> Findings:
    """A step of each side in every turn."""
    records = SMALL if asked.small else RECORDS
    # As under [privacy] the heads have no dropout.
    scene = open_scene(asked, records, rounds={"method": "fedsvd"}, training={"head_dropout": 0.0})
    scene.model.train()
    steps = {PLAIN: plain(scene), PRIVATE: private(scene), OPACUS: by_opacus(scene), NOISE: noise(scene)}
    for step in steps.values():
        step()  # the first of each is slower
    figures = in_turns({name: partial(cpu_seconds, step) for name, step in steps.items()}, asked.turns)
    unit = f"CPU seconds of a step on {len(scene.examples)} records"
    comparisons = [
        Comparison(subject=PRIVATE, against=name, unit=unit, ours=figures[PRIVATE], theirs=figures[name], goal=goal)
        for name, goal in GOALS.items()
    ]
    spread = Spread.of(figures[NOISE])
    rows: list[list[Cell]] = [[NOISE, spread.median, spread.min, spread.max]]
    return Findings(
        comparisons=comparisons,
        tables=[Table(title="Alone", columns=["CPU seconds", "median", "least", "most"], rows=rows)],
    )


def plain(scene: Scene) -> Callable[[], None]:
    """A step of the trainer."""
    parameters, training, rng = _trained(scene.model), scene.federation.training, np.random.default_rng(0)

    def step() -> None:
        optimizer = build_optimizer(parameters, training)
        for batch in training_batches(scene.examples, training.batch_tokens, rng):
            accumulate(scene.model, batch, training, {}, rng)
        torch.nn.utils.clip_grad_norm_(parameters, training.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def private(scene: Scene) -> Callable[[], None]:
    """A private step in which every owner was drawn."""
    owners = {(example.task, example.record): str(example.record) for example in scene.examples}
    settings = Private(Privacy(noise_multiplier=1.0, sampling_rate=1.0), 1.0, owners)
    parameters, training = _trained(scene.model), scene.federation.training

    def step() -> None:
        noisy = private_optimizer(build_optimizer(parameters, training), settings)
        with per_example_gradients(scene.model):
            private_step(scene.model, scene.examples, training, settings, noisy)

    return step


def noise(scene: Scene) -> Callable[[], object]:
    """The noise of such a step."""
    stream, size = Stream(), sum(parameter.numel() for parameter in _trained(scene.model))
    return lambda: stream.noise(size)


def by_opacus(scene: Scene) -> Callable[[], None]:
    """A step of opacus in which every record was drawn."""
    model = peft_model(scene)
    rows = encoded(scene, "train")
    loader = DataLoader(rows, batch_size=len(rows), collate_fn=DataCollatorWithPadding(scene.model.tokenizer))  # type: ignore[arg-type, var-annotated]
    optimizer = torch.optim.AdamW(_trained(model), lr=scene.federation.training.learning_rate)
    model.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its generator is not made for secrets
        module, noisy, drawn = PrivacyEngine().make_private(
            module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=1.0, max_grad_norm=1.0
        )

    def step() -> None:
        with (
            warnings.catch_warnings(),
            BatchMemoryManager(data_loader=drawn, max_physical_batch_size=PHYSICAL, optimizer=noisy) as parts,
        ):
            warnings.simplefilter("ignore")  # about hooks of modules whose inputs need no gradient
            for batch in parts:
                noisy.zero_grad()
                module(**batch).loss.backward()
                noisy.step()

    return step


def _trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
