"""The benchmarks of `collegium bench`, by name."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from shared.errors import ConfigError
from simulations.benchmarks.measured import Asked, Findings, Result, machine


@dataclass(frozen=True)
class Benchmark:
    """One entry of the table."""

    summary: str
    """What is beside what."""
    module: str
    """Its function `findings` takes an `Asked` and returns `Findings`; its docstring tells how it measures."""

    @property
    def text(self) -> str:
        """How it measures: paragraphs."""
        spec = find_spec(self.module)
        assert spec is not None
        assert spec.origin is not None
        return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""

    def findings(self, asked: Asked) -> Findings:
        """Measure; imports what it needs."""
        found: Findings = import_module(self.module).findings(asked)
        return found


BENCHMARKS: Mapping[str, Benchmark] = {
    "local_training": Benchmark(
        "our trainer, beside Hugging Face's with peft", "simulations.benchmarks.training.local_training"
    ),
    "limit": Benchmark(
        "a training step, beside the bare products of its matrices", "simulations.benchmarks.training.limit"
    ),
    "dp_training": Benchmark(
        "a private step, beside a plain one and beside opacus", "simulations.benchmarks.training.dp_training"
    ),
    "frozen_pass": Benchmark(
        "states that nobody trains, beside ONNX Runtime in int8", "simulations.benchmarks.training.frozen_pass"
    ),
    "optimize": Benchmark(
        "a bundle made smaller or faster, beside the bundle as released", "simulations.benchmarks.training.optimized"
    ),
    "memory": Benchmark("a training process over 50 rounds", "simulations.benchmarks.memory"),
    "simulation": Benchmark(
        "a simulated federation, beside Flower's on Ray and beside pfl", "simulations.benchmarks.simulation"
    ),
    "aggregation": Benchmark("averaging updates, beside a bare NumPy sum", "simulations.benchmarks.aggregation"),
    "door": Benchmark("rounds of many institutions at one door", "simulations.benchmarks.door.nodes"),
    "round_overhead": Benchmark("a round without training, beside stock Flower", "simulations.benchmarks.rounds"),
    "serving": Benchmark(
        "a served model at 1, 8 and 64 clients, beside a loop over transformers' pipeline",
        "simulations.benchmarks.serving.load",
    ),
    "serving_memory": Benchmark("a server over 50,000 requests", "simulations.benchmarks.serving.memory"),
    "start": Benchmark(
        "what starting a coordinator, an institution and the command costs", "simulations.benchmarks.start"
    ),
}


def run(name: str, asked: Asked) -> Result:
    """Measure.

    Raises:
        ConfigError: No benchmark has this name, or it needs a library or a file that is not here.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"Expected a benchmark among {', '.join(BENCHMARKS)}, not {name!r}; name one of them.")
    where, options = machine(), " --data DIR" if asked.data else ""
    return Result(name=name, machine=where, options=options, **dict(BENCHMARKS[name].findings(asked)))
