"""The one local training loop: the daemon, the simulator and the tests all call it."""

import hashlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from client.privacy.owners import Private, poisson_batches, steps_per_round
from client.privacy.randomness import Chance
from client.train.batching import evaluation_batches, sample_by_temperature, training_batches
from client.train.drift import Proximal
from client.train.gradients import Measured, Passing, accumulate
from client.train.hooks import Hook
from client.train.optimizers import build_optimizer, head_scale, learning_rate, set_learning_rate, warm_up
from client.train.place import Place, Reached
from client.train.precision import autocast
from shared.errors import TrainingError
from shared.federation import Training
from shared.model.balancing import BALANCERS, State
from shared.model.multitask import MultiTaskModel
from shared.tasks import Example, Task

Augment = Callable[[Chance], Sequence[Example]]
"""Encoded training records whose texts are reworded, each by its own chance; see `client.data.augmentation`."""
Step = Callable[[Sequence[Example], Mapping[str, float]], Measured]
"""Takes one step on a batch, in which each task's rows count by its factor; 1 where none is given."""


@dataclass(frozen=True)
class Stage:
    """Where in a run a round of training stands."""

    round: int = 1
    """From 1."""
    rounds: int = 1
    """Of the whole run; the learning rate follows one schedule over all of them."""
    balance: State | None = None
    """`Outcome.balance` of the round before; None begins afresh."""


@dataclass(frozen=True)
class Outcome:
    """What one round of local training did."""

    steps: int
    losses: dict[str, float]
    """Mean loss per task over the last epoch, unweighted."""
    seconds: float
    balance: State
    """What the balancer of `training.combine` goes on from in the next round."""
    rates: tuple[float, float] = (0.0, 0.0)
    """Sum of the learning rates of the steps: of the adapter, and of the heads."""


def train(
    model: MultiTaskModel,
    examples: Sequence[Example],
    training: Training,
    *,
    seed: int,
    stage: Stage = Stage(),
    augment: Augment | None = None,
    private: Private | None = None,
    hooks: Sequence[Hook] = (),
    passing: Passing | None = None,
    place: Place | None = None,
) -> Outcome:
    """Train adapter and heads in place for one round.

    Within an epoch nothing waits for what the device computes, except where `training.combine` weighs tasks by the
    losses of every step, where states of frozen layers are remembered (in main memory), and with `private`.

    The optimizer starts afresh every round, and its first steps are small ones (`optimizers.warm_up`). With `private`
    the round is one epoch of Poisson batches and noisy steps (`client.privacy.dpsgd`) in which each record's random
    choices are its own and secret, and else as many epochs as `training` says, reproducible from `seed`.

    Args:
        model: Holds the global state; changed in place.
        examples: The site's encoded training records, tasks mixed.
        training: The federation's hyperparameters.
        seed: Decides order, masks, rewording and dropout, unless `private`; see `derive_seed`.
        stage: Which round it is.
        augment: Draws the examples of each epoch in place of `examples`; of the same tasks. Once a round if `private`.
        private: The owners of the records and the noise that protects them.
        hooks: What else each step does, in this order; the pull of `training.proximal_mu` comes after them.
        passing: As `gradients.accumulate`.
        place: Where the place within the round is kept, and found again; not used if `private`, or if a hook remembers
            earlier steps.

    Returns:
        Steps, mean loss per task in the last epoch, seconds, the balancer's state, and how far the rates carried.

    Raises:
        TrainingError: A loss was not finite, and not `private`; told when the epoch is over, and the model is of no
            more use.
    """
    started = time.perf_counter()
    rng = np.random.default_rng(seed)
    epochs = _epochs(model, augment or (lambda chance: examples), training, rng, private)
    steps, reached = sum(len(epoch) for epoch in epochs), Reached()
    adapter = [parameter for parameter in model.flat.encoder if parameter.requires_grad]
    optimizer = build_optimizer(adapter, training, model.flat.heads)
    balancer, tasks = BALANCERS[training.combine], sorted({example.task for example in examples})
    state = balancer.init(tasks) if stage.balance is None else stage.balance
    if training.proximal_mu:
        hooks = [*hooks, Proximal(training.proximal_mu)]
    for hook in hooks:
        hook.begin(model, tasks)
    ways: AbstractContextManager[Step]
    if private:
        from client.privacy.dpsgd import private_steps  # opacus, which nobody else needs

        ways = private_steps(model, training, private, optimizer, hooks)
    else:
        ways = nullcontext(plain_step(model, training, optimizer, hooks, rng, passing))
    if private or any(hook.remembers for hook in hooks):
        place = None
    losses: dict[str, float] = {}
    over = False
    with torch.random.fork_rng(devices=_cuda(model)):
        torch.manual_seed(seed)
        model.train()
        if place and (found := place.take_up(model, optimizer, rng, examples)):
            reached, state, losses = found
        with ways as step:
            for epoch in epochs[reached.epochs :]:
                rows: dict[str, list[torch.Tensor]] = defaultdict(list)
                for batch in epoch:
                    passed = (stage.round - 1 + reached.done / steps) / stage.rounds
                    rate = learning_rate(training, passed) * warm_up(training, reached.done, steps)
                    set_learning_rate(optimizer, rate)
                    measured = step(batch, balancer.weights(state))
                    if balancer.needs_losses:
                        state = balancer.after_step(state, measured.means(), measured.norms)
                    for task, values in measured.losses.items():
                        rows[task].append(values)
                    reached.done, reached.travelled = reached.done + 1, reached.travelled + rate
                    for hook in hooks:
                        hook.after_step(reached.done, steps)
                    if over := time.perf_counter() - started + reached.seconds >= (training.max_seconds or math.inf):
                        break
                losses = _means(rows)
                if over:
                    break
                state = balancer.after_epoch(state, losses)
                reached.epochs += 1
                if place:
                    place.keep(reached, model, optimizer, rng, state, losses, examples)
        model.eval()
    rates = reached.travelled, reached.travelled * head_scale(training)
    seconds = reached.seconds + time.perf_counter() - started
    return Outcome(reached.done, losses, seconds, state, rates)


def plain_step(
    model: MultiTaskModel,
    training: Training,
    optimizer: torch.optim.Optimizer,
    hooks: Sequence[Hook],
    rng: np.random.Generator,
    passing: Passing | None = None,
) -> Step:
    """A step along the gradient of the batch's combined loss, clipped to `training.clip_norm`.

    The other kind of step is `client.privacy.dpsgd.private_steps`.

    Args:
        model: In training mode; changed in place by every step.
        training: How losses combine, and the longest gradient.
        optimizer: Of the model's trained parameters, its learning rate set.
        hooks: What each step does beside.
        rng: As `gradients.accumulate`.
        passing: As `gradients.accumulate`.
    """
    parameters = [parameter for parameter in model.flat.parameters if parameter.requires_grad]

    def step(batch: Sequence[Example], factors: Mapping[str, float]) -> Measured:
        optimizer.zero_grad(set_to_none=True)
        measured = accumulate(model, batch, training, factors, rng, passing)
        for hook in hooks:
            hook.on_gradient()
        torch.nn.utils.clip_grad_norm_(parameters, training.clip_norm)
        for hook in hooks:
            hook.before_step()
        optimizer.step()
        return measured

    return step


def _means(rows: Mapping[str, list[torch.Tensor]]) -> dict[str, float]:
    """The mean loss of an epoch's rows by task, read from the device at once.

    Raises:
        TrainingError: One of them is not finite.
    """
    if not rows:
        return {}
    means = dict(zip(rows, torch.stack([torch.cat(values).mean() for values in rows.values()]).tolist(), strict=True))
    if wrong := {task: mean for task, mean in means.items() if not math.isfinite(mean)}:
        task, mean = next(iter(wrong.items()))
        raise TrainingError(
            f"Expected a finite training loss, but that of {task} became {mean}; lower training.learning_rate."
        )
    return means


def derive_seed(seed: int, institution: str, round: int) -> int:
    """A seed for one institution and round, the same wherever that round is computed."""
    digest = hashlib.sha256(f"{seed}/{institution}/{round}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


@torch.inference_mode()
def infer(
    model: MultiTaskModel, examples: Sequence[Example], *, batch_tokens: int = 2048, precision: str = "auto"
) -> list[np.ndarray]:
    """What one task's head infers of each example, cut to its length; `Task.predict` decodes it.

    Args:
        model: Its heads must include the examples' task.
        examples: Encoded records of a single task.
        batch_tokens: Most padded sub-tokens in one batch.
        precision: As in `Training.precision`.
    """
    if model.training:
        model.eval()
    logits: dict[int, np.ndarray] = {}
    for batch in evaluation_batches(examples, batch_tokens):
        with autocast(model.device, precision):
            (output,) = model.infer(model.collate(batch).to(model.device)).values()
        per_token = output.dim() == 3
        for example, row in zip(batch, output.float().cpu().numpy(), strict=True):
            logits[id(example)] = row[: len(example)] if per_token else row
    return [logits[id(example)] for example in examples]


def predict(model: MultiTaskModel, task: Task, examples: Sequence[Example], *, precision: str = "auto") -> list[Any]:
    """Predictions of a task's examples, by record."""
    found = task.predict(examples, infer(model, examples, precision=precision))
    return [found[record] for record in range(len(found))]


def _epochs(
    model: MultiTaskModel, draw: Augment, training: Training, rng: np.random.Generator, private: Private | None
) -> list[list[list[Example]]]:
    """The batches of the round's epochs, drawn again."""
    if private:
        batches = poisson_batches(draw(private.chance("reword")), private, steps_per_round(private.privacy, training))
        return [[_redrawn(model, batch, private.chance("redraw", step)) for step, batch in enumerate(batches)]]

    def chance(task: str, record: int) -> np.random.Generator:
        return rng

    epochs = [_epoch(draw(chance), training, rng) for _ in range(training.epochs_per_round)]
    return [[_redrawn(model, batch, chance) for batch in epoch] for epoch in epochs]


def _redrawn(model: MultiTaskModel, batch: Sequence[Example], chance: Chance) -> list[Example]:
    """A batch as this step shows it."""
    tasks = model.tasks
    return [
        replace(tasks[e.task].redraw(e, chance(e.task, e.record)), varies=True) if tasks[e.task].redraws else e
        for e in batch
    ]


def _epoch(examples: Sequence[Example], training: Training, rng: np.random.Generator) -> list[list[Example]]:
    if training.sampling == "temperature":
        examples = sample_by_temperature(examples, training.sampling_temperature, rng)
    return training_batches(examples, training.batch_tokens, rng)


def _cuda(model: MultiTaskModel) -> list[torch.device]:
    return [model.device] if model.device.type == "cuda" else []
