"""What is said of an optimized bundle: its table, and its card."""

from collections.abc import Mapping, Sequence

from client.optimize.measuring import Measured
from shared.bundle.optimized import Optimized

CARD = """\
# {name}, optimized

`collegium optimize` made this of release {source}{signed}: {what}. It needs no other files: the model is in `model/`.

{table}

Megabytes are those of all files, the backbone's among them. Speed is in texts for each CPU second, one at a time and in
batches of 32, on one machine; the difference is the largest of a logit from the release's.

    collegium predict . --task {task} --text "..."

`SOURCE.md` is the card of the release that it was made of; institutions have consented to that one, not to this.
"""
GRAPH = """
`model/model.onnx` reads `input_ids`, `attention_mask` and `token_type_ids` [rows, length] and tells `states`
[rows, length, hidden] and, under the tasks' names, the logits of the heads that read nothing else.
"""


def columns(metrics: Mapping[str, str]) -> list[str]:
    """The columns of the table; `metrics` tells by task what is scored."""
    scores = [f"{task} ({metric})" for task, metric in metrics.items()]
    return ["model", "MB", "texts/s, 1", "texts/s, 32", "difference", *scores]


def cells(name: str, row: Measured) -> list[str]:
    """A row of the table."""
    scores = [f"{score:.4f}" for score in row.scores.values()]
    return [name, f"{row.megabytes:g}", f"{row.alone:g}", f"{row.together:g}", f"{row.difference:.2g}", *scores]


def done(about: Optimized) -> str:
    """What has been done, in words."""
    parts = ["the adapter merged into the BERT"]
    if about.layers != tuple(range(len(about.layers))) or about.distilled:
        parts.append(f"layers {', '.join(map(str, about.layers))} kept")
    if about.distilled:
        parts.append(f"the heads of {', '.join(about.distilled)} distilled")
    if about.int8:
        parts.append("weights of eight bits")
    return ", ".join([*parts, *(["an ONNX graph"] if about.runtime == "onnx" else [])])


def readme(name: str, about: Optimized, head: Sequence[str], rows: Mapping[str, Measured], tasks: Sequence[str]) -> str:
    """The card, in Markdown."""
    ruler = ["---", *["---:" for _ in head[1:]]]
    lines = [list(head), ruler, *(cells(model, row) for model, row in rows.items())]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    signed = f", signed by {about.signed_by}" if about.signed_by else ""
    text = CARD.format(name=name, source=about.source, signed=signed, what=done(about), table=table, task=min(tasks))
    return text + (GRAPH if about.runtime == "onnx" else "")
