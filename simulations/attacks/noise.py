"""Can the noise of a private update be taken away again? Whoever does that reads the sum of the clipped gradients.

torch's generator on a CPU begins from the low 32 bits of its seed, whatever it is given, so that all seeds can be tried
against one update. Here 2^16 are tried, the right ones among them: what the operating system gives the training ends in
bits that are planted below 2^16, as if the rest of the search had been done already.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch

from client.privacy.owners import Private
from client.privacy.randomness import KEY_BYTES, Stream
from client.train import trainer
from shared.federation import Federation, Privacy
from shared.model.multitask import build_model
from simulations.attacks import Attack, Outcome
from simulations.attacks.stage import TINY_RECORDS, TINY_TASKS, tiny_federation, write_tiny_bert

SEEDS = 2**16
KEYS = 2**11
"""Keys tried around the planted bits; one takes longer than a seed of torch."""
ALIKE = 0.8
"""Least cosine of an update and its own noise; other noise comes to 0.6 at most in all tries together."""
PRIVACY = Privacy(noise_multiplier=8.0, sampling_rate=1.0)
SHAPE = (2, 32)
"""Of the head's weights, which come first in a step."""
PROMISE = "coins and noise come from keys of 256 bits that nobody can guess"
Guess = Callable[[int], torch.Tensor]
"""From a seed, the noise on the head's weights, whatever its unit: one row."""


def private_update(folder: Path, planted: int) -> tuple[Federation, torch.Tensor]:
    """The agreement, and one private step of a head's weights as the coordinator sees it: SHAPE."""
    federation = tiny_federation(
        write_tiny_bert(folder),
        tasks={"clauses": TINY_TASKS["clauses"]},
        training={"optimizer": "sgd", "momentum": 0.0, "warmup": 0.0, "schedule": "constant", "head_dropout": 0.0},
        rounds={"method": "heads"},
    )
    federation = federation.model_copy(update={"tasks": {"clauses": federation.tasks["clauses"]}})
    model = build_model(federation)
    examples = model.tasks["clauses"].encode(TINY_RECORDS["clauses"], model.tokenizer, 64)
    owners = {(example.task, example.record): str(example.record) for example in examples}
    (weights,) = (parameter for parameter in model.heads.parameters() if parameter.shape == SHAPE)
    before = weights.detach().clone()
    seed = trainer.derive_seed(federation.seed, "hospital", 1)
    with ends_in(planted):
        private = Private(PRIVACY, PRIVACY.noise_multiplier or 0.0, owners)
        trainer.train(model, examples, federation.training, seed=seed, private=private)
    return federation, before - weights.detach()


@contextmanager
def ends_in(low: int) -> Iterator[None]:
    """What the operating system gives at random ends in these 32 bits."""
    token_bytes, randbits = secrets.token_bytes, secrets.randbits
    with (
        patch.object(secrets, "token_bytes", lambda count: token_bytes(count - 4) + low.to_bytes(4, "big")),
        patch.object(secrets, "randbits", lambda bits: (randbits(bits) >> 32 << 32) + low),
    ):
        yield


def drawn_by_torch(seed: int) -> torch.Tensor:
    """As opacus draws it in secure mode from a generator of torch."""
    generator = torch.Generator().manual_seed(seed)
    torch.normal(0.0, 1.0, (1, 1), generator=generator)
    draws = [torch.normal(0.0, 1.0, SHAPE, generator=generator) for _ in range(4)]
    return torch.stack(draws).sum(0).flatten()


def drawn_by_stream(seed: int) -> torch.Tensor:
    """As a step here draws it, from a key of which all but 32 bits are zero."""
    count = SHAPE[0] * SHAPE[1]
    bias = SHAPE[0]
    return Stream(seed.to_bytes(KEY_BYTES, "big")).noise(count + bias)[:count].float()


def search(guess: Guess, seeds: Callable[[Federation, int], Sequence[int]]) -> Callable[[Path], Outcome]:
    """Tries on one update the seeds that the agreement and the planted bits suggest."""

    def run(folder: Path) -> Outcome:
        planted = secrets.randbelow(SEEDS)
        federation, update = private_update(folder, planted)
        tried, seen = seeds(federation, planted), update.flatten() / update.norm()
        hits = sum(abs(float(noise @ seen)) > ALIKE * float(noise.norm()) for noise in map(guess, tried))
        return Outcome(len(tried), hits, "seeds tried on one update")

    return run


def known_to_all(federation: Federation, planted: int) -> list[int]:
    """Every seed that somebody with the agreement would think of."""
    names = ("", *federation.rounds.institutions)
    derived = [trainer.derive_seed(federation.seed, name, round) for name in names for round in range(8)]
    return [*range(federation.seed + 1), *derived]


def around(federation: Federation, planted: int) -> range:
    """The planted bits and those that share their high ones."""
    start = planted // KEYS * KEYS
    return range(start, start + KEYS)


def below(federation: Federation, planted: int) -> range:
    """All that may be planted."""
    return range(SEEDS)


ATTACKS = tuple(
    Attack(f"noise recomputed from {what}", "a reader", PROMISE, search(guess, seeds))
    for what, guess, seeds in (
        ("the low 32 bits of a seed", drawn_by_torch, below),
        ("the low 32 bits of a key", drawn_by_stream, around),
        ("the agreement's seed", drawn_by_torch, known_to_all),
    )
)
