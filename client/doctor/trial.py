"""A piece of a round as this machine takes it: seconds, memory and bytes, measured and not guessed.

    python -m client.doctor.trial INSTITUTION [DATA]

prints a `Trial` as JSON, and is killed where the machine lacks the memory, as an executor would be. A process of its
own also has a peak of memory of its own. Nothing is sent, and nothing is written: no state folder is touched.
"""

import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from client.data.holdout import find_key
from client.institution import load_institution
from client.leaving import steps
from client.opening import build_site, load_model
from client.policy import Policy
from client.preflight import Kept
from client.privacy.account import budget_of, has_ledger, mechanism_of_round, open_ledger
from client.privacy.accounting import epsilon
from client.privacy.owners import Private, steps_per_round
from client.round.keep import LocalState
from client.site import Site
from client.train import trainer
from client.train.hooks import Hook
from client.train.importance import Importance
from client.train.trainer import Outcome
from shared import codec
from shared.adapter import base_codec, factor_of, get_state, is_kept, is_received, of_tasks, tensors
from shared.codec import Arrays
from shared.errors import CollegiumError
from shared.federation import load_federation
from shared.model.lora import set_trained
from shared.process.console import print_json
from shared.process.memory import keep_few_kernels
from shared.state import Broadcast, pack_broadcast, pack_update
from shared.tasks import Example

SECONDS = 6.0
"""About how long training is timed."""
SCORING_SECONDS = 3.0
"""About how long scoring is timed."""
ROUNDED = 8
"""Bytes of a value under secure aggregation: a word that hides it among the others'."""
SPREAD = 3.0
"""Standard deviations above the mean: how large a draw of owners may well be."""


@dataclass(frozen=True)
class Spending:
    """What privacy costs, at the delta that the budget is kept at."""

    round: float
    """Epsilon of one round."""
    run: float
    """Of all rounds of a run."""
    spent: float
    """What these data have spent so far."""
    after: float
    """What they would have spent after another run."""
    allowed: float
    delta: float


@dataclass(frozen=True)
class Trial:
    """What was measured, and what follows for a whole round."""

    device: str
    threads: int
    tokens: int
    """Sub-tokens of the training records that an epoch passes."""
    timed_tokens: int
    """Of these, how many were timed."""
    train_seconds: float
    """Of a round's training."""
    score_seconds: float
    """Of scoring a round on the validation records."""
    largest_tokens: int
    """Sub-tokens of the largest batch."""
    peak_bytes: int
    """Most main memory that the process took."""
    gpu_peak_bytes: int
    gpu_bytes: int
    """Of the GPU; 0 without one, as the peak."""
    bytes_down: int
    """Of a round's state, as it is sent to this site."""
    bytes_up: int
    """Of a round's update."""
    kept_bytes: int
    """Of what a round leaves in the state folder."""
    state_bytes: int
    """Of adapter and heads in memory."""
    spending: Spending | None = None


def measure(path: Path, data: Path | None = None) -> Trial:
    """Open a site as a start does, and try a piece of a round.

    Args:
        path: `institution.toml`.
        data: As `load_institution`.

    Raises:
        CollegiumError: What would keep the site from starting.
        torch.OutOfMemoryError: The largest batch does not fit the GPU.
    """
    institution = load_institution(path, data=data)
    federation = load_federation(institution.federation)
    model = load_model(institution, federation)
    site = build_site(institution, federation, model, Kept(split_key=find_key(institution.runtime.state)))
    before = get_state(model)
    set_trained(model.encoder, federation.method.factors(1))
    examples = site.examples("train")
    largest = _largest(site, examples)
    _train(site, largest)
    timed = _time_training(site, examples)
    score_seconds = _score(site)
    update = _update(site, before, timed)
    received = {name: array for name, array in before.items() if is_received(name, federation.method)}
    control = _control(site)
    down = pack_broadcast(Broadcast(of_tasks(received, site.data), of_tasks(control, site.data)))
    kept = {name: array for name, array in before.items() if is_kept(name, federation.method.keeps)}
    cuda = model.device if model.device.type == "cuda" else None
    return Trial(
        device=torch.cuda.get_device_name(cuda) if cuda else "cpu",
        threads=torch.get_num_threads(),
        tokens=_tokens(examples),
        timed_tokens=timed.tokens,
        train_seconds=_of_a_round(site, examples, timed),
        score_seconds=score_seconds,
        largest_tokens=_tokens(largest),
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        gpu_peak_bytes=torch.cuda.max_memory_reserved(cuda) if cuda else 0,
        gpu_bytes=torch.cuda.get_device_properties(cuda).total_memory if cuda else 0,
        bytes_down=len(codec.encode(down, federation.wire.coding_down, np.random.default_rng(0)))
        + _folded(site, before),
        bytes_up=_bytes_up(site, update),
        kept_bytes=_size(kept) + _size(control) + (_size(update) if federation.wire.up == "top-k" else 0),
        state_bytes=sum(parameter.numel() * 4 for parameter in tensors(model).values()),
        spending=_spending(path, site),
    )


@dataclass(frozen=True)
class Timed:
    """Some steps of training."""

    tokens: int
    seconds: float
    steps: int
    rates: tuple[float, float]
    importance: Arrays


def _largest(site: Site, examples: Sequence[Example]) -> list[Example]:
    """The longest records, as many as a step may read at once: of the budget, or of the owners that a draw may have."""
    longest = sorted(examples, key=len, reverse=True)
    if privacy := site.federation.privacy:
        rate, count = privacy.sampling_rate, len(longest)
        return longest[: max(1, min(count, int(rate * count + SPREAD * (rate * (1 - rate) * count) ** 0.5)))]
    fit = np.cumsum([len(example) for example in longest]) <= site.federation.training.batch_tokens
    return longest[: max(1, int(fit.sum()))]


def _time_training(site: Site, examples: Sequence[Example]) -> Timed:
    """Train batches of random records, none twice: a text that comes again may cost less, as in later epochs."""
    if privacy := site.federation.privacy:
        rows = max(1, round(privacy.sampling_rate * len(examples)))
    else:
        rows = max(1, site.federation.training.batch_tokens * len(examples) // _tokens(examples))
    order = np.random.default_rng(0).permutation(len(examples))
    tokens, seconds, taken = 0, 0.0, 0
    importance = Importance(site.model.encoder) if site.federation.adapter.prunes else None
    for start in range(0, len(order), rows):
        batch = [examples[i] for i in order[start : start + rows]]
        outcome = _train(site, batch, [importance] if importance else [])
        tokens, seconds, taken = tokens + _tokens(batch), seconds + outcome.seconds, taken + outcome.steps
        if seconds > SECONDS:
            break
    return Timed(tokens, seconds, taken, outcome.rates, importance.shares() if importance else {})


def _train(site: Site, examples: Sequence[Example], hooks: Sequence[Hook] = ()) -> Outcome:
    """Train some examples once, by the site's own loop; under [privacy] all their owners in one step."""
    training = site.federation.training.model_copy(update={"epochs_per_round": 1, "max_seconds": None})
    private = None
    if site.account and site.federation.privacy:
        everybody = site.federation.privacy.model_copy(update={"sampling_rate": 1.0})
        owners = {(e.task, e.record): site.account.owners[e.task, e.record] for e in examples}
        private = Private(everybody, mechanism_of_round(site.federation).noise_multiplier, owners)
    return trainer.train(
        site.model, examples, training, seed=site.federation.seed, private=private, hooks=hooks, passing=site.passing
    )


def _of_a_round(site: Site, examples: Sequence[Example], timed: Timed) -> float:
    """Seconds of a whole round's training, by sub-tokens; under [privacy] by those that its draws have on average."""
    training, passed = site.federation.training, float(_tokens(examples))
    if privacy := site.federation.privacy:
        passed *= privacy.sampling_rate * steps_per_round(privacy, training)
    else:
        passed *= training.epochs_per_round
    seconds = timed.seconds / timed.tokens * passed
    return min(seconds, training.max_seconds or seconds)


def _score(site: Site) -> float:
    """Seconds of scoring all validation records, from a part of each task's."""
    seconds = 0.0
    for splits in site.data.values():
        if "validation" not in splits or not splits["validation"].examples:
            continue
        whole = splits["validation"].examples
        part = _some(whole, min(len(whole), 32))
        while True:
            began = time.perf_counter()
            trainer.infer(site.model, part, precision=site.federation.training.precision)
            took = time.perf_counter() - began
            if len(part) == len(whole) or took > SCORING_SECONDS / len(site.data) / 4:
                break
            part = _some(whole, min(len(whole), 4 * len(part)))
        seconds += took * _tokens(whole) / _tokens(part)
    return seconds


def _some(examples: Sequence[Example], rows: int) -> list[Example]:
    """A fixed random choice of so many rows."""
    order = np.random.default_rng(0).permutation(len(examples))
    return [examples[i] for i in order[:rows]]


def _update(site: Site, before: Arrays, timed: Timed) -> Arrays:
    """What would leave after a round, by every step of the way out but the site's own caps, which are for real ones."""
    trained = steps.Trained(
        federation=site.federation,
        policy=Policy(),
        tasks=site.data.keys(),
        round=1,
        seed=0,
        received=Broadcast(of_tasks(before, site.data), of_tasks(_control(site), site.data)),
        variates={},
        importance=timed.importance,
        rates=timed.rates,
    )
    parcel, _ = steps.leave(trained, get_state(site.model), site.shapes_sent(1), LocalState())
    return pack_update(parcel.update)


def _bytes_up(site: Site, update: Arrays) -> int:
    if site.federation.secure_aggregation:
        return sum(array.size for array in update.values()) * ROUNDED
    return len(codec.encode(update, site.federation.wire.coding_up, np.random.default_rng(0)))


def _folded(site: Site, before: Arrays) -> int:
    """About how many bytes a round's step of the frozen weights has: the others' factors, as they were."""
    if not site.federation.method.folds:
        return 0
    values = sum(array.size for name, array in before.items() if factor_of(name))
    others = len(site.federation.rounds.institutions) - 1
    return values * others * (4 if base_codec(site.federation.wire.down) == "float32" else 2)


def _control(site: Site) -> Arrays:
    """Control variates as they come before the first round."""
    if not site.federation.training.scaffold:
        return {}
    return {name: np.zeros(shape, np.float32) for name, shape in of_tasks(site.shapes_sent(1), site.data).items()}


def _spending(path: Path, site: Site) -> Spending | None:
    if not site.account:
        return None
    institution = load_institution(path)
    allowed, delta = budget_of(institution.policy, site.federation)
    mechanism = mechanism_of_round(site.federation)
    run = replace(mechanism, steps=mechanism.steps * site.federation.rounds.count)
    past = open_ledger(institution).mechanisms(site.account.dataset) if has_ledger(institution) else []
    return Spending(
        round=epsilon([mechanism], delta),
        run=epsilon([run], delta),
        spent=epsilon(past, delta),
        after=epsilon([*past, run], delta),
        allowed=allowed,
        delta=delta,
    )


def _tokens(examples: Sequence[Example]) -> int:
    return sum(map(len, examples))


def _size(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())


def main(path: str, data: str | None = None) -> None:
    """Print a trial, or a sentence that says why there is none, as JSON."""
    keep_few_kernels()
    try:
        print_json({"trial": asdict(measure(Path(path), Path(data) if data else None))})
    except torch.OutOfMemoryError:
        print_json({"out_of_memory": True})
    except CollegiumError as error:
        print_json({"error": str(error)})


def parse_trial(text: str) -> Trial | str | None:
    """What `main` has printed: a trial, why there is none, or None where the GPU's memory was too small."""
    found = json.loads(text)
    if "trial" not in found:
        error: str | None = found.get("error")
        return error
    spending = found["trial"].pop("spending")
    return Trial(**found["trial"], spending=Spending(**spending) if spending else None)


if __name__ == "__main__":
    main(*sys.argv[1:])
