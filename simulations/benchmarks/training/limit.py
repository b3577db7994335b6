"""How near a training step comes to what the machine can multiply, in arithmetic per CPU second.

A frozen linear layer of `in` x `out` weights takes 2 x `in` x `out` operations a token forward and as many backward:
what the encoder's linear layers take together, a step cannot do without. A step is what the trainer does with 1,024
tokens: collating, the forward and backward pass with LoRA of rank 8 on all of those layers, attention, norms,
activations, the head, clipping and AdamW. Beside it stand the products alone: 2,048 tokens through each of those
layers, in the same dtype, nothing else. So the ratio is the share of the processor's time that the frozen weights get,
and the table says who takes the rest.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import BertModel

from client.train import trainer
from client.train.precision import is_bfloat16
from simulations.benchmarks.measured import Asked, Cell, Comparison, Findings, Goal, Table, cpu_seconds, in_turns
from simulations.benchmarks.training.scene import Scene, open_scene

RECORDS, SMALL = 300, 16
ROWS = 2048
GOAL = Goal(kind="at least", value=0.7)
LEAST_SECONDS = 1.0
"""How long products are repeated, so that the clock's steps do not matter."""

KINDS: dict[str, tuple[str, ...]] = {
    "attention": ("bmm", "softmax", "scaled_dot_product"),
    "products with frozen weights": ("mm", "linear", "matmul"),
    "norms": ("layer_norm",),
    "activations": ("gelu", "tanh"),
    "dropout": ("dropout", "bernoulli"),
    "gathering and padding": ("index", "gather", "scatter", "embedding", "cat", "pad", "select", "slice", "nonzero"),
    "copies and casts": ("copy", "clone", "contiguous", "fill", "zero", "empty"),
    "optimizer and clipping": ("foreach", "adamw", "norm", "optimizer"),
    "elementwise work": ("add", "mul", "div", "sub", "sum", "where", "exp", "log"),
}
"""Words in the names of operations, by what they do; the first kind that fits."""
LORA = "products of LoRA"
"""Kind of a product of which a matrix has the adapter's rank on one side, or three of them and one for the bias."""


def findings(asked: Asked) -> Findings:
    """An epoch beside the bare products, in turns; then a profile of another."""
    scene = open_scene(asked, SMALL if asked.small else RECORDS, training={"batch_tokens": 1024})
    dtype = torch.bfloat16 if is_bfloat16(scene.model.device, "auto") else torch.float32
    layers = linear_layers(scene)
    operations = 4.0 * sum(layer.weight.numel() for layer in layers) * sum(map(len, scene.examples))
    training = epoch(scene)
    products = bare_products(layers, dtype, ROWS)
    for work in (training, products):
        work()  # the first is slower
    repeats = 1 if asked.small else max(1, round(LEAST_SECONDS / max(cpu_seconds(products), 1e-3)))
    product_operations = 2.0 * ROWS * sum(layer.weight.numel() for layer in layers)
    figures = in_turns(
        {
            "ours": lambda: operations / cpu_seconds(training) / 1e9,
            "theirs": lambda: repeats * product_operations / cpu_seconds(lambda: repeat(products, repeats)) / 1e9,
        },
        asked.turns,
    )
    comparison = Comparison(
        subject="a training step",
        against=f"its bare products in {str(dtype).removeprefix('torch.')}",
        unit="GFLOP per CPU second",
        goal=GOAL,
        **figures,
    )
    return Findings(comparisons=[comparison], tables=[where_time_goes(training, scene.federation.adapter.rank)])


def linear_layers(scene: Scene) -> list[torch.nn.Linear]:
    """The frozen linear layers of the encoder."""
    bert = scene.model.encoder.get_base_model()
    assert isinstance(bert, BertModel)
    return [
        module
        for name, module in bert.encoder.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora" not in name
    ]


def epoch(scene: Scene) -> Callable[[], object]:
    """What the trainer does with all records once."""
    return lambda: trainer.train(scene.model, scene.examples, scene.federation.training, seed=1)


def bare_products(layers: list[torch.nn.Linear], dtype: torch.dtype, rows: int) -> Callable[[], None]:
    """`rows` random rows times each layer's weights."""
    weights = [layer.weight.detach().to(dtype) for layer in layers]
    inputs = {width: torch.randn(rows, width).to(dtype) for width in {weight.shape[1] for weight in weights}}

    @torch.inference_mode()
    def products() -> None:
        for weight in weights:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)

    return products


def repeat(work: Callable[[], object], times: int) -> None:
    """Do it so often."""
    for _ in range(times):
        work()


def where_time_goes(work: Callable[[], object], rank: int) -> Table:
    """The share of each kind of operation in the time of some work, by the profiler; other processes slow all alike."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        started = time.perf_counter()
        work()
        total = time.perf_counter() - started
    spent: dict[str, float] = defaultdict(float)
    for event in profiled.key_averages(group_by_input_shape=True):
        shapes = [shape for shape in event.input_shapes if len(shape) == 2]
        spent[kind_of(event.key, shapes, rank)] += event.self_cpu_time_total / 1e6
    spent["Python between them"] = max(0.0, total - sum(spent.values()))
    rows: list[list[Cell]] = [
        [kind, 100 * seconds / total] for kind, seconds in sorted(spent.items(), key=lambda item: -item[1])
    ]
    return Table(title="Where the time of a step goes", columns=["operations", "% of the time"], rows=rows)


def kind_of(operation: str, shapes: Sequence[Sequence[int]], rank: int) -> str:
    """What an operation is for, by its name and its matrices: `aten::addmm` is a product."""
    name = operation.rpartition("::")[2].lower()
    for kind, words in KINDS.items():
        if any(word in name for word in words):
            narrow = "frozen" in kind and any(min(shape) <= 3 * rank + 1 for shape in shapes)
            return LORA if narrow else kind
    return "other operations"
