"""DP-SGD (Abadi et al. 2016, algorithm 1) on adapter and heads, by opacus; the unit is the owner of records.

Every step draws owners by a coin each (Poisson sampling), sums each drawn owner's gradient over all its records and
tasks, clips that sum, adds noise to the sum over owners, and divides by the expected number of owners. A step that drew
nobody is noise alone. Owners pass through the model sorted by length, whole, in micro-batches.

Coins, noise and what a record draws for itself (which words are masked) come from keys of the operating system, never
from the federation's seed (`client.privacy.randomness`): whoever knows the seed could take the noise away again, and
numbers that are drawn in a row over a batch would shift for all when one owner is added.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed

from client.privacy.owners import Private, by_owner
from client.privacy.randomness import Stream
from client.train.batching import PACKED_PASS, PADDED_PASS, cut_by_length, pack, padded_length
from client.train.gradients import Measured
from client.train.hooks import Hook
from client.train.precision import autocast
from shared.federation import Training
from shared.model.multitask import Batch, MultiTaskModel
from shared.model.packed import Apart
from shared.tasks import Example

STABILITY = 0.01
"""gamma of automatic clipping; the paper's choice."""


class NoisyOptimizer(DPOptimizer):  # type: ignore[misc]
    """opacus's, with noise from a cryptographic stream, and automatic clipping if asked for.

    Automatic clipping is AUTO-S: g / (|g| + gamma), so that nobody contributes more than 1 (Bu et al. 2022, arXiv
    2206.07136).
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, stream: Stream, automatic: bool, **options: Any) -> None:
        """Draw noise from `stream`; `options` are opacus's."""
        super().__init__(optimizer, **options)
        self.stream = stream
        self.automatic = automatic

    def clip_and_accumulate(self) -> None:
        """Scale every owner's gradient to almost 1 if so agreed, then as opacus does."""
        if self.automatic:
            norms = _norms(self.grad_samples)
            for p in self.params:
                scale = (1 / (norms + STABILITY)).reshape(-1, *(1,) * (p.grad_sample.dim() - 1))
                p.grad_sample = p.grad_sample * scale
        super().clip_and_accumulate()

    def add_noise(self) -> None:
        """Add noise to the sum of clipped gradients, in float64, and round once; whatever device the sum is on."""
        deviation = self.noise_multiplier * self.max_grad_norm
        sizes = [p.numel() for p in self.params]
        noise = torch.split(self.stream.noise(sum(sizes)).mul_(deviation), sizes)
        for p, own in zip(self.params, noise, strict=True):
            _check_processed_flag(p.summed_grad)
            noisy = p.summed_grad.cpu().double() + own.view_as(p)
            p.grad = noisy.to(p.dtype).to(p.device)
            _mark_as_processed(p.summed_grad)


def private_optimizer(
    optimizer: torch.optim.Optimizer, private: Private, stream: Stream | None = None
) -> NoisyOptimizer:
    """An optimizer that clips each owner, adds noise and divides by the expected number of owners.

    Args:
        optimizer: Takes the step in the end.
        private: Clipping and noise.
        stream: Of the noise; only for tests, by default one of its own.
    """
    automatic = private.privacy.clipping == "automatic"
    return NoisyOptimizer(
        optimizer,
        stream=stream or Stream(),
        automatic=automatic,
        noise_multiplier=private.noise_multiplier,
        max_grad_norm=1.0 if automatic else private.privacy.clip,
        expected_batch_size=private.expected_owners,
        loss_reduction="mean",
    )


@contextmanager
def per_example_gradients(model: MultiTaskModel) -> Iterator[None]:
    """Inside, a backward pass leaves each row's gradient of the heads in their parameters' `grad_sample`.

    So it does for the adapter's, unless the model `packs`: then `Apart` collects those, by owner, without hooks.
    Outside nothing is left of it, however it ended: no hook, no gradient, no activation of a record.
    """
    hooks = GradSampleHooks(model.heads if model.packs else model, loss_reduction="sum")
    model.zero_grad(set_to_none=True)  # what was done before on this model is nobody's contribution
    try:
        yield
    finally:
        hooks.cleanup()
        for module in model.modules():
            for name in ("activations", "max_batch_len"):
                module.__dict__.pop(name, None)
        for parameter in model.parameters():
            for name in ("grad_sample", "summed_grad"):
                parameter.__dict__.pop(name, None)
        model.zero_grad(set_to_none=True)


@contextmanager
def private_steps(
    model: MultiTaskModel,
    training: Training,
    private: Private,
    optimizer: torch.optim.Optimizer,
    hooks: Sequence[Hook] = (),
) -> Iterator[Callable[[Sequence[Example], Mapping[str, float]], Measured]]:
    """Yields what takes one step on what a Poisson draw gave, and returns its losses, which are not private.

    Hooks come after the noise, and may add to the gradient what rests on no record but through the parameters. Factors
    of the tasks are ignored: under [privacy] they are fixed.
    """

    def prepare(_: DPOptimizer) -> None:
        for hook in hooks:
            hook.on_gradient()
        for hook in hooks:
            hook.before_step()

    noisy = private_optimizer(optimizer, private)
    noisy.attach_step_hook(prepare)
    with per_example_gradients(model):
        yield lambda batch, _: private_step(model, batch, training, private, noisy)


def private_step(
    model: MultiTaskModel, batch: Sequence[Example], training: Training, private: Private, optimizer: DPOptimizer
) -> Measured:
    """One step, inside `per_example_gradients`; no record can make it fail.

    1. The drawn owners are divided into micro-batches (`owner_batches`).
    2. Each owner's gradient is computed; one that is not finite counts as zero (`owner_gradients`).
    3. Each is clipped and added to the sum (`_add_clipped`).
    4. After the last owner noise is added to the sum, and the step taken (`_add_noise_and_step`).
    5. Losses are reported; those that are not finite as 0.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    losses: dict[str, list[torch.Tensor]] = {}
    for owners in owner_batches(by_owner(batch, private.owners), training.batch_tokens, packed=model.packs):
        _add_clipped(optimizer, parameters, owner_gradients(model, owners, training, losses))
    _add_noise_and_step(optimizer, parameters)
    of_rows = {task: torch.cat(values).double() for task, values in losses.items()}  # float32 may not hold their sum
    return Measured({task: values.where(values.isfinite(), 0.0) for task, values in of_rows.items()}, {})


def _add_clipped(
    optimizer: DPOptimizer, parameters: Sequence[torch.nn.Parameter], gradients: Sequence[torch.Tensor]
) -> None:
    """Clip some owners' gradients and add them to the sum: what opacus does in a step that it is to skip."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad_sample = gradient  # type: ignore[attr-defined]
    optimizer.signal_skip_step(True)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _add_noise_and_step(optimizer: DPOptimizer, parameters: Sequence[torch.nn.Parameter]) -> None:
    """Take the step that is not skipped, over a batch of no owners.

    So the noise is added once, after all owners, whatever their number; also where none was drawn.
    """
    nobody = [parameter.new_zeros((0, *parameter.shape)) for parameter in parameters]
    for parameter, gradient in zip(parameters, nobody, strict=True):
        parameter.grad_sample = gradient  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def owner_batches(
    owners: Sequence[Sequence[Example]], batch_tokens: int, *, packed: bool = False
) -> list[list[Sequence[Example]]]:
    """Owners of similar length together, in micro-batches of at most `batch_tokens` sub-tokens.

    An owner is never divided: one that is larger is a micro-batch of its own.

    Args:
        owners: The examples of each.
        batch_tokens: With their padding, unless `packed`.
        packed: Whether the model `packs`.
    """
    batches: list[list[Sequence[Example]]] = []
    for part in cut_by_length(owners, PACKED_PASS if packed else PADDED_PASS):
        width, filled = padded_length(max(map(len, part[-1]))), 0
        for owner in part:
            own = sum(map(len, owner)) if packed else width * len(owner)
            if filled and filled + own <= batch_tokens:
                batches[-1].append(owner)
                filled += own
            else:
                batches.append([owner])
                filled = own
    return batches


def owner_gradients(
    model: MultiTaskModel,
    owners: Sequence[Sequence[Example]],
    training: Training,
    losses: dict[str, list[torch.Tensor]] | None = None,
) -> list[torch.Tensor]:
    """Each owner's gradient of the sum of its weighted losses: float32 [owners, ...] per trained parameter.

    It is zero for an owner of whose gradient any number, or the sum of any parameter's, is not finite: an error would
    tell that the owner is there.

    Args:
        model: In training mode, inside `per_example_gradients`.
        owners: The examples of each.
        training: Precision, and how many sub-tokens pass at once.
        losses: Collects the loss of every row, by task.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sums: dict[torch.nn.Parameter, torch.Tensor] = {}
    rows = [(example, number) for number, owner in enumerate(owners) for example in owner]
    for positions in pack([len(example) for example, _ in rows], _room(rows, training.batch_tokens)):
        batch = model.collate([rows[i][0] for i in positions]).to(model.device)
        apart = Apart(torch.tensor([rows[i][1] for i in positions], device=model.device), len(owners))
        for task, values in _backward(model, batch, training, apart).items():
            if losses is not None:
                losses.setdefault(task, []).append(values)
        for parameter, own in _gradients(model, trained, batch, apart):
            sums[parameter] = sums[parameter] + own if parameter in sums else own
    totals = [sums[p] if p in sums else p.new_zeros((len(owners), *p.shape)) for p in trained]
    # A sum is finite only if every number in it is, and takes an eighth of the time of looking at each.
    finite = torch.stack([total.flatten(1).sum(1) for total in totals]).isfinite().all(0)
    if not finite.all():
        for total in totals:
            total[~finite] = 0
    return totals


def _room(rows: Sequence[tuple[Example, int]], batch_tokens: int) -> int:
    """All rows of several owners pass together; those of an owner who is too large, as many as fit."""
    alone = rows[0][1] == rows[-1][1]
    return batch_tokens if alone else len(rows) * padded_length(max(len(example) for example, _ in rows))


def _backward(model: MultiTaskModel, batch: Batch, training: Training, apart: Apart) -> dict[str, torch.Tensor]:
    with autocast(model.device, training.precision):
        logits = model(batch, apart)
    losses = model.losses(batch, logits)
    total = torch.stack([model.tasks[task].weight * values.sum() for task, values in losses.items()]).sum()
    with warnings.catch_warnings():  # the first LoRA layer reads frozen embeddings
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        total.backward()  # type: ignore[no-untyped-call]
    return {task: values.detach() for task, values in losses.items()}


def _gradients(
    model: MultiTaskModel, trained: Sequence[torch.nn.Parameter], batch: Batch, apart: Apart
) -> Iterator[tuple[torch.nn.Parameter, torch.Tensor]]:
    """What a backward pass has left of each owner, [owners, ...] in float32, by parameter; it is taken away."""
    heads = {parameter: task for task, head in model.heads.items() for parameter in head.parameters()}
    for parameter in trained:
        own = apart.gradient(parameter)
        if own is None and (samples := getattr(parameter, "grad_sample", None)) is not None:
            rows = batch.rows.get(heads.get(parameter, ""))  # a head sees its task's rows alone
            owners = apart.owners if rows is None else apart.owners[rows]
            own = parameter.new_zeros((apart.count, *parameter.shape), dtype=torch.float32)
            own.index_add_(0, owners, samples.float())
            parameter.grad_sample = None  # type: ignore[attr-defined]
        assert own is not None or parameter.grad is None, "a gradient of all rows that no owner's was told from"
        parameter.grad = None
        if own is not None:
            yield parameter, own


def _norms(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Each owner's Euclidean norm over all parameters: [owners]."""
    norms: torch.Tensor = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients], dim=1).norm(dim=1)
    return norms
