"""What a model weighs, how fast it is, and what it says: the same figures before and after."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.optimize.given import Given, says_logits
from shared.bundle import is_optimized
from shared.federation import Backbone
from shared.inference.model import ReleasedModel
from shared.model.backbone import agreed
from shared.tasks import Example

ALONE, TOGETHER = 32, 128
"""Texts that are timed one at a time, and in batches."""
BATCH, TURNS = 32, 3


@dataclass(frozen=True)
class Measured:
    """One model."""

    megabytes: float
    """Of all files that a prediction needs, the backbone's among them."""
    alone: float
    """Texts in a CPU second, one at a time: the median of some turns."""
    together: float
    """As `alone`, in batches of 32."""
    scores: Mapping[str, float]
    """By task, the task's own metric on the records."""
    difference: float
    """The largest one of a logit from that of the first model, over all records; 0 of the first itself."""


def measure(models: Mapping[str, ReleasedModel], sizes: Mapping[str, int], given: Given) -> dict[str, Measured]:
    """Some models on the same records, in turns; encoding texts as sub-tokens is not timed.

    Args:
        models: By what they are called; the first is what the others are compared with.
        sizes: Of each, in bytes.
        given: The records.
    """
    alone, together = alone_and_together(given)
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for model in models.values():
        model.infer(together[0])  # the first is slower
    for _ in range(TURNS):
        for name, model in models.items():
            speeds[name].append((speed(model, alone), speed(model, together)))
    found = {}
    for name, (scores, far) in said(models, given).items():
        slow, fast = (round(statistics.median(kind), 1) for kind in zip(*speeds[name], strict=True))
        found[name] = Measured(round(sizes[name] / 1e6, 1), slow, fast, scores, far)
    return found


def alone_and_together(given: Given) -> tuple[list[list[Example]], list[list[Example]]]:
    """What is timed: texts one at a time, and in batches."""
    examples = [example for own in given.values() for example in own.examples]
    alone, together = (list(examples[:: -(-len(examples) // most)]) for most in (ALONE, TOGETHER))
    return [[one] for one in alone], [together[start : start + BATCH] for start in range(0, len(together), BATCH)]


def speed(model: ReleasedModel, batches: Sequence[Sequence[Example]]) -> float:
    """Texts in a CPU second."""
    start = time.process_time()
    for batch in batches:
        model.infer(batch, batch_tokens=BATCH * 512)
    return sum(map(len, batches)) / max(time.process_time() - start, 1e-9)


def said(models: Mapping[str, ReleasedModel], given: Given) -> dict[str, tuple[dict[str, float], float]]:
    """Of each model its scores by task, and its `difference` from the first."""
    logits = {name: {task: model.infer(own.examples) for task, own in given.items()} for name, model in models.items()}
    first, found = logits[next(iter(models))], {}
    for name, model in models.items():
        scores, far = {}, [0.0]
        for task, own in given.items():
            decoded = model.tasks[task].predict(own.examples, logits[name][task])
            predictions = [decoded[number] for number in range(len(own.records))]
            scores[task] = model.tasks[task].score(own.records, predictions)[model.tasks[task].metric]
            if says_logits(model.heads[task]):
                far.append(difference(logits[name][task], first[task]))
        found[name] = scores, max(far)
    return found


def difference(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """The largest between two models' logits, where both are numbers."""
    gaps = [np.abs(a - b)[np.isfinite(a) & np.isfinite(b)] for a, b in zip(some, others, strict=True)]
    return max((float(gap.max()) for gap in gaps if gap.size), default=0.0)


def size_of(folder: Path, backbone: Backbone, where: str | None) -> int:
    """Bytes of a bundle, and of its backbone unless the bundle has a model of its own."""
    own = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if is_optimized(folder):
        return own
    with agreed(where or backbone.name, backbone.sha256) as seen:
        return own + sum(path.stat().st_size for path in seen.iterdir())
