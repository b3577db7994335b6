"""The model before the first round: whoever has the agreement and the backbone draws the same, without torch."""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from shared.adapter import HEAD, PREFIX, factor_name
from shared.codec import Arrays
from shared.errors import ConfigError, listed
from shared.federation import Federation
from shared.model.backbone import Shape, agreed, read_weight, shape_of
from shared.tasks import build_task


def initial_state(federation: Federation, *, backbone: str | None = None) -> Arrays:
    """All shared arrays of the federation's model, float32 by name, as every institution's begins.

    Args:
        federation: The agreement.
        backbone: Where this machine keeps the backbone, if not where the federation file says.

    Raises:
        BackboneError: The backbone is missing or is not the agreed one.
        ConfigError: The adapter or the maximal length does not fit the backbone.
    """
    with agreed(backbone or federation.backbone.name, federation.backbone.sha256) as folder:
        shape = shape_of(folder)
        check_length(shape, federation)
        check_adapter(shape, federation)
        return begin(federation, shape, partial(read_weight, folder))


def begin(federation: Federation, shape: Shape, weight: Callable[[str], np.ndarray]) -> Arrays:
    """As `initial_state`, of a backbone that is at hand.

    Each array has random numbers of its own, from the seed and its name: a task more, or another rank, leaves the
    others as they are.

    Args:
        federation: The agreement.
        shape: The backbone's, which the adapter fits.
        weight: Reads a matrix of the backbone by its name, [outputs, inputs].
    """
    draw, state = partial(_draw, federation.seed), Arrays()
    for layer, size in adapted(federation, shape):
        state |= _adapter(federation, f"{PREFIX}{layer}", size, partial(weight, f"{layer}.weight"))
    for name, spec in federation.tasks.items():
        for layer, made in build_task(name, spec).layers(shape.hidden, shape.vocabulary).items():
            state |= made.begin(f"{HEAD}{name}/{layer}", draw)
    return dict(sorted(state.items()))


def linear_layers(shape: Shape) -> dict[str, tuple[int, int]]:
    """The linear layers within each layer of a BERT, as [outputs, inputs]."""
    square = (shape.hidden, shape.hidden)
    return {
        "attention.self.query": square,
        "attention.self.key": square,
        "attention.self.value": square,
        "attention.output.dense": square,
        "intermediate.dense": (shape.intermediate, shape.hidden),
        "output.dense": (shape.hidden, shape.intermediate),
    }


def adapted(federation: Federation, shape: Shape) -> Iterator[tuple[str, tuple[int, int]]]:
    """The layers that get an adapter, by their names in the encoder, as [outputs, inputs]."""
    for number in federation.adapter.layer_numbers(shape.layers):
        for name, size in linear_layers(shape).items():
            if _kind(name) in federation.adapter.target_modules:
                yield f"encoder.layer.{number}.{name}", size


def check_length(shape: Shape, federation: Federation) -> None:
    """Raise ConfigError if texts may be longer than the backbone reads."""
    if federation.backbone.max_length > shape.max_length:
        raise ConfigError(
            f"backbone.max_length must be at most {shape.max_length}, the backbone's own limit, "
            f"not {federation.backbone.max_length}."
        )


def check_adapter(shape: Shape, federation: Federation) -> None:
    """Raise ConfigError unless the backbone has the layers, wide enough for a rank that needs directions."""
    adapter = federation.adapter
    adapter.layer_numbers(shape.layers)
    known = {_kind(name) for name in linear_layers(shape)}
    if unknown := sorted(set(adapter.target_modules) - known):
        raise ConfigError(
            f"adapter.target_modules must be among the backbone's linear layers {listed(sorted(known))}, not "
            f"{listed(unknown)}."
        )
    narrowest = min(min(size) for _, size in adapted(federation, shape))
    if federation.method.begins != "random" and adapter.rank > narrowest:
        raise ConfigError(f"adapter.rank must be at most {narrowest} under this method, not {adapter.rank}.")


def _adapter(federation: Federation, layer: str, size: tuple[int, int], weight: Callable[[], np.ndarray]) -> Arrays:
    """A layer's factors: A drawn and B zero; or both, with a core of zeros, the principal directions of the weights."""
    rank, (outputs, inputs) = federation.adapter.rank, size
    a, b, core = (factor_name(layer, factor) for factor in ("A", "B", "R"))
    zeros = np.zeros((outputs, rank), np.float32)
    match federation.method.begins:
        case "random":  # evenly within 1 / sqrt(inputs), as peft does
            return {a: _draw(federation.seed, a, (rank, inputs), inputs**-0.5), b: zeros}
        case "orthonormal":
            return {a: _orthonormal(_generator(federation.seed, a), rank, inputs), b: zeros}
        case "principal":
            u, _, vt = np.linalg.svd(weight().astype(np.float64), full_matrices=False)
            signs = np.sign(u[:, :rank].sum(0))  # the same wherever it is computed: a direction's sign is arbitrary
            directions = {a: vt[:rank] * signs[:, None], b: u[:, :rank] * signs, core: np.zeros((rank, rank))}
            return {name: np.ascontiguousarray(array, np.float32) for name, array in directions.items()}


def _orthonormal(generator: np.random.Generator, rank: int, inputs: int) -> np.ndarray:
    """[rank, inputs] with orthonormal rows, drawn evenly over all such: QR of a Gaussian (Mezzadri 2007, section 5)."""
    q, r = np.linalg.qr(generator.standard_normal((inputs, rank)))
    return np.ascontiguousarray((q * np.sign(np.diagonal(r))).T, np.float32)


def _draw(seed: int, name: str, shape: tuple[int, ...], bound: float) -> np.ndarray:
    numbers = _generator(seed, name).random(shape, np.float32)
    return (numbers * 2 - 1) * np.float32(bound)


def _generator(seed: int, name: str) -> np.random.Generator:
    """For the array of a name alone."""
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), "<u4")
    return np.random.Generator(np.random.PCG64([seed % 2**64, *map(int, words)]))


def _kind(layer: str) -> str:
    return layer.rpartition(".")[2]
