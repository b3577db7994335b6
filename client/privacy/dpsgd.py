"""DP-SGD (Abadi et al. 2016, algorithm 1) on adapter and heads, by opacus; the unit is the owner of records.

Every step draws owners by a coin each (Poisson sampling), sums each drawn owner's gradient over all its records and
tasks, clips that sum, adds noise to the sum over owners, and divides by the expected number of owners. A step that drew
nobody is noise alone. Owners pass through the model sorted by length, whole, in micro-batches.

Coins and noise come from the operating system's entropy, never from the federation's seed: whoever knows the seed could
take the noise away again.
"""

import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from opacus.optimizers import DPOptimizer

from client.batching import cut_by_length, pack, padded_length
from client.gradients import Measured
from client.precision import autocast
from shared.errors import DataError
from shared.federation import Privacy, Training
from shared.model import Batch, MultiTaskModel
from shared.tasks import Example

STABILITY = 0.01
"""gamma of automatic clipping; the paper's choice."""
Owner = str
Key = tuple[str, int]
"""Task, and index of a record in its training split."""


@dataclass(frozen=True)
class Private:
    """What private training needs beside the federation's hyperparameters."""

    privacy: Privacy
    noise_multiplier: float
    """Standard deviation of the noise, in units of an owner's largest contribution."""
    owners: Mapping[Key, Owner]
    """Whose each training record is."""

    @property
    def expected_owners(self) -> float:
        """Owners of a step on average: what its sum is divided by, whoever was drawn."""
        return self.privacy.sampling_rate * len(set(self.owners.values()))


def steps_per_round(privacy: Privacy, training: Training) -> int:
    """Steps of a round: as many as show every owner `epochs_per_round` times on average; at least one if any."""
    if training.epochs_per_round == 0:
        return 0
    return max(1, round(training.epochs_per_round / privacy.sampling_rate))


def poisson_batches(
    examples: Sequence[Example], private: Private, steps: int, rng: np.random.Generator | None = None
) -> list[list[Example]]:
    """The examples of each step: those of every owner that the step's coin picked. Some may be empty.

    Args:
        examples: Encoded training records.
        private: Whose they are, and how often each owner is drawn.
        steps: How many.
        rng: Only for tests; by default the operating system's entropy.
    """
    rng = rng or np.random.default_rng(secrets.randbits(128))
    groups = _by_owner(examples, private.owners)
    return [
        [
            example
            for group, coin in zip(groups, rng.random(len(groups)), strict=True)
            if coin < private.privacy.sampling_rate
            for example in group
        ]
        for _ in range(steps)
    ]


class AutomaticClipping(DPOptimizer):  # type: ignore[misc]
    """Clips by AUTO-S: g / (|g| + gamma), so that nobody contributes more than 1 (Bu et al. 2022, arXiv 2206.07136)."""

    def clip_and_accumulate(self) -> None:
        """Scale every owner's gradient to almost 1, then as opacus does."""
        norms = _norms(self.grad_samples)
        for p in self.params:
            scale = (1 / (norms + STABILITY)).reshape(-1, *(1,) * (p.grad_sample.dim() - 1))
            p.grad_sample = p.grad_sample * scale
        super().clip_and_accumulate()


def private_optimizer(
    optimizer: torch.optim.Optimizer, private: Private, device: torch.device, seed: int | None = None
) -> DPOptimizer:
    """An optimizer that clips each owner, adds noise and divides by the expected number of owners.

    Args:
        optimizer: Takes the step in the end.
        private: Clipping and noise.
        device: Of the parameters.
        seed: Only for tests; by default the operating system's entropy.
    """
    automatic = private.privacy.clipping == "automatic"
    generator = torch.Generator(device).manual_seed(secrets.randbits(63) if seed is None else seed)
    kind = AutomaticClipping if automatic else DPOptimizer
    return kind(
        optimizer,
        noise_multiplier=private.noise_multiplier,
        max_grad_norm=1.0 if automatic else private.privacy.clip,
        expected_batch_size=private.expected_owners,
        loss_reduction="mean",
        generator=generator,
        secure_mode=True,  # noise that does not betray itself by how floats are rounded (Holohan and Braghin 2021)
    )


@contextmanager
def per_example_gradients(model: MultiTaskModel) -> Iterator[None]:
    """Inside, a backward pass leaves every trained parameter's gradient of each row in its `grad_sample`."""
    hooks = GradSampleHooks(model, loss_reduction="sum")
    try:
        yield
    finally:
        hooks.cleanup()


@contextmanager
def private_steps(
    model: MultiTaskModel,
    training: Training,
    private: Private,
    optimizer: torch.optim.Optimizer,
    pull_back: Callable[[], None] = lambda: None,
) -> Iterator[Callable[[Sequence[Example]], Measured]]:
    """Yields what takes one step on what a Poisson draw gave, and returns its losses, which are not private.

    `pull_back` may add to the gradients, after the noise, what rests on no record but through the parameters.
    """
    noisy = private_optimizer(optimizer, private, model.device)
    noisy.attach_step_hook(lambda _: pull_back())
    with per_example_gradients(model):
        yield lambda batch: private_step(model, batch, training, private, noisy)


def private_step(
    model: MultiTaskModel, batch: Sequence[Example], training: Training, private: Private, optimizer: DPOptimizer
) -> Measured:
    """One step, inside `per_example_gradients`.

    Raises:
        DataError: A loss is not finite.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    losses: dict[str, list[torch.Tensor]] = {}
    for owners in owner_batches(_by_owner(batch, private.owners), training.batch_tokens):
        for parameter, gradient in zip(parameters, owner_gradients(model, owners, training, losses), strict=True):
            parameter.grad_sample = gradient  # type: ignore[attr-defined]
        optimizer.signal_skip_step(True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    for parameter in parameters:  # nobody more: noise, and the step
        parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return Measured({task: torch.cat(values) for task, values in losses.items()}, {})


def owner_batches(owners: Sequence[Sequence[Example]], batch_tokens: int) -> list[list[Sequence[Example]]]:
    """Owners of similar length together, in micro-batches of at most `batch_tokens` padded sub-tokens.

    An owner is never divided: one that is larger is a micro-batch of its own.
    """
    batches: list[list[Sequence[Example]]] = []
    for part in cut_by_length(owners):
        width, rows = padded_length(max(map(len, part[-1]))), 0
        for owner in part:
            if rows and width * (rows + len(owner)) <= batch_tokens:
                batches[-1].append(owner)
                rows += len(owner)
            else:
                batches.append([owner])
                rows = len(owner)
    return batches


def owner_gradients(
    model: MultiTaskModel,
    owners: Sequence[Sequence[Example]],
    training: Training,
    losses: dict[str, list[torch.Tensor]] | None = None,
) -> list[torch.Tensor]:
    """Each owner's gradient of the sum of its weighted losses: float32 [owners, ...] per trained parameter.

    Args:
        model: In training mode, inside `per_example_gradients`.
        owners: The examples of each.
        training: Precision, and how many sub-tokens pass at once.
        losses: Collects the loss of every row, by task.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sums = [torch.zeros((len(owners), *p.shape), dtype=torch.float32, device=p.device) for p in parameters]
    rows = [(example, number) for number, owner in enumerate(owners) for example in owner]
    for positions in pack([len(example) for example, _ in rows], _room(rows, training.batch_tokens)):
        batch = model.collate([rows[i][0] for i in positions]).to(model.device)
        for task, values in _backward(model, batch, training).items():
            if losses is not None:
                losses.setdefault(task, []).append(values)
        owner_of = torch.tensor([rows[i][1] for i in positions], device=model.device)
        for total, parameter, own in zip(sums, parameters, _rows_of(model, batch, owner_of), strict=True):
            if parameter.grad_sample is not None:  # type: ignore[attr-defined]
                total.index_add_(0, own, parameter.grad_sample.float())  # type: ignore[attr-defined]
                parameter.grad_sample = None  # type: ignore[attr-defined]
            parameter.grad = None
    return sums


def _room(rows: Sequence[tuple[Example, int]], batch_tokens: int) -> int:
    """All rows of several owners pass together; those of an owner who is too large, as many as fit."""
    alone = rows[0][1] == rows[-1][1]
    return batch_tokens if alone else len(rows) * padded_length(max(len(example) for example, _ in rows))


def _backward(model: MultiTaskModel, batch: Batch, training: Training) -> dict[str, torch.Tensor]:
    with autocast(model.device, training.precision):
        logits = model(batch)
    losses = model.losses(batch, logits)
    total = torch.stack([model.tasks[task].weight * values.sum() for task, values in losses.items()]).sum()
    if not torch.isfinite(total):
        raise DataError(f"Expected a finite training loss, but it became {total.item()}; lower training.learning_rate.")
    with warnings.catch_warnings():  # the first LoRA layer reads frozen embeddings
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        total.backward()  # type: ignore[no-untyped-call]
    return {task: values.detach() for task, values in losses.items()}


def _rows_of(model: MultiTaskModel, batch: Batch, owner_of: torch.Tensor) -> list[torch.Tensor]:
    """For each trained parameter, the owners of the rows that its gradient has: a head sees its task's rows alone."""
    heads = {parameter: task for task, head in model.heads.items() for parameter in head.parameters()}
    return [
        owner_of[batch.rows[heads[p]]] if p in heads and heads[p] in batch.rows else owner_of
        for p in model.parameters()
        if p.requires_grad
    ]


def _by_owner(examples: Sequence[Example], owners: Mapping[Key, Owner]) -> list[list[Example]]:
    groups: dict[Owner, list[Example]] = {}
    for example in examples:
        groups.setdefault(owners[example.task, example.record], []).append(example)
    return list(groups.values())


def _norms(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Each owner's Euclidean norm over all parameters: [owners]."""
    norms: torch.Tensor = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients], dim=1).norm(dim=1)
    return norms
