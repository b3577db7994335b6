"""What a server tells Prometheus of itself; of several workers, the sums of all."""

import os
from collections.abc import Callable
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

__all__ = ["CONTENT_TYPE_LATEST", "Metrics", "share"]

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def share(folder: Path) -> None:
    """Have processes that are started from now on keep their counts in a folder."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


class Metrics:
    """The counts of one process.

    Args:
        waiting: Tells how many rows wait now.
        folder: Where all workers keep theirs; None if this is the only one.
    """

    def __init__(self, waiting: Callable[[], int], folder: Path | None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        own, self._folder = CollectorRegistry(), folder
        self._registry = own
        prefix = "collegium_serving"
        self.answers = Counter(f"{prefix}_answers", "Requests that were answered.", ("task", "status"), registry=own)
        self.texts = Counter(f"{prefix}_texts", "Texts that were answered.", ("task",), registry=own)
        self.seconds = Histogram(
            f"{prefix}_answer_seconds", "From a request's head to its answer.", buckets=SECONDS, registry=own
        )
        self.rows = Histogram(f"{prefix}_batch_rows", "Rows that passed together.", buckets=ROWS, registry=own)
        self.tokens = Counter(f"{prefix}_tokens", "Padded sub-tokens that passed the encoder.", registry=own)
        self.busy = Counter(f"{prefix}_busy_seconds", "Time spent computing.", registry=own)
        self.reloads = Counter(f"{prefix}_reloads", "Reloads of the bundles.", ("outcome",), registry=own)
        self.waiting = Gauge(f"{prefix}_waiting_rows", "Rows that wait.", registry=own, multiprocess_mode="livesum")
        if folder is None:
            self.waiting.set_function(waiting)
        self._now = waiting

    def batch(self, rows: int, tokens: int, seconds: float) -> None:
        """Count a batch."""
        self.rows.observe(rows)
        self.tokens.inc(tokens)
        self.busy.inc(seconds)
        if self._folder is not None:
            self.waiting.set(self._now())

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        if self._folder is None:
            return generate_latest(self._registry)
        from prometheus_client.multiprocess import MultiProcessCollector

        every = CollectorRegistry()
        MultiProcessCollector(every, path=str(self._folder))  # type: ignore[no-untyped-call]
        return generate_latest(every)
