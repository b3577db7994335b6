"""What the task types that choose among labels share: the labels in a federation file, a record's label, its scores."""

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from difflib import get_close_matches
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from shared.errors import listed
from shared.tasks.base import Example, Record, Target, shown, unique

Labels = Annotated[tuple[str, ...], Field(min_length=2), AfterValidator(unique)]
_WHOLE = re.compile(r"([+-]?\d+)\.0+")
ClassWeights = tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]
"""One positive number per label, in the order of the labels."""


def check_weights(labels: Sequence[str], weights: ClassWeights | None) -> None:
    """Raise ValueError unless there is one weight per label, or none at all."""
    if weights is not None and len(weights) != len(labels):
        raise ValueError(f"class_weights must be one for each of the {len(labels)} labels, not {len(weights)}")


def require_label(record: Record, labels: Sequence[str]) -> None:
    """Raise ValueError unless the record's label is one of `labels`."""
    if "label" not in record:
        raise ValueError("expected a label in 'label', but there is none")
    require_known(record["label"], labels)


def require_known(label: Any, labels: Sequence[str]) -> None:
    """Raise ValueError unless `label` is one of `labels`."""
    if label not in labels:
        raise ValueError(f"label {shown(label)} is not among the federation's {listed(labels)}{hint(label, labels)}")


def hint(label: Any, known: Sequence[str]) -> str:
    """How to resolve a label that is only spelt differently; nothing if none is like it."""
    plain = {re.sub(r"[\\W_]", "", name).casefold(): name for name in known}
    bare = re.sub(r"[\\W_]", "", str(label)).casefold()
    close = get_close_matches(bare, plain, n=1, cutoff=0.75)
    whole = str(label).removesuffix(".0")
    if not close and whole not in known:
        return ""
    meant = whole if whole in known else plain[close[0]]
    return (
        f"; if {meant!r} is meant, add rename = {{{json.dumps(str(label))} = {json.dumps(meant)}}} to its [data] table"
    )


def renamed(record: Record, rename: Mapping[str, str], known: Sequence[str]) -> Record:
    """The record with its `label`, or each of its `labels`, as `named` among those `known` to the federation."""
    changes: dict[str, Any] = {}
    if "label" in record:
        changes["label"] = named(record["label"], rename, known)
    if isinstance(labels := record.get("labels"), list):
        changes["labels"] = [named(item, rename, known) for item in labels]
    return {**record, **changes} if changes else record


def named(label: Any, rename: Mapping[str, str], known: Sequence[str]) -> Any:
    """The federation's name for a label of a file, whatever the file's format; as it came where there is none.

    First as it is spelt (`spelt`), then as the number or the truth value that it is, which programs write in several
    ways: 1.0 for 1, True or TRUE for true.
    """
    text = spelt(label)
    if not isinstance(text, str):
        return label
    whole, lower = _WHOLE.fullmatch(text), text.lower()
    truths = (lower, lower.capitalize(), lower.upper()) if lower in ("true", "false") else ()
    for spelling in (*([label] if isinstance(label, str) else []), text, *([whole[1]] if whole else []), *truths):
        if spelling in rename:
            return rename[spelling]
        if spelling in known:
            return spelling
    return text


def spelt(label: Any) -> Any:
    """A label as text, whatever type a file gives it, so that CSV, JSON and Parquet agree; anything else as it is.

    1, 1.0 and Decimal("1.00") are "1", true is "true", a date is as ISO 8601 writes it. Text is in composed characters
    (Unicode NFC), without white space round it and characters that nobody sees (Cc and Cf, such as a zero-width space);
    white space within it is one space.
    """
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, float | Decimal):
        return str(int(label)) if math.isfinite(label) and label == int(label) else str(label)
    if isinstance(label, int | date):
        return str(label)
    if not isinstance(label, str):
        return label
    plain = unicodedata.normalize("NFC", " ".join(label.split()))
    return " ".join("".join(c for c in plain if unicodedata.category(c) not in ("Cc", "Cf")).split())


def label_target(record: Record, labels: Sequence[str]) -> Target:
    """`labels`: the number of the record's label; empty where it has none."""
    return {"labels": labels.index(record["label"])} if "label" in record else {}


def likeliest(example: Example, row: np.ndarray, labels: Sequence[str]) -> str:
    """The label of the highest logit, among those that the example's institution annotates."""
    known = np.array(example.target.get("known", (True,) * len(labels)))
    return labels[int(np.where(known, row, -np.inf).argmax())]


def label_answer(row: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """The likeliest label and its probability, of logits [labels]."""
    chances = softmax(row)
    best = int(chances.argmax())
    return {"label": labels[best], "score": float(chances[best])}


def softmax(rows: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    raised = np.exp(rows - rows.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))


def label_scores(truth: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Macro-F1, accuracy and Matthews' correlation (in [-1, 1]), as scikit-learn has them.

    Macro-F1 is the mean over the labels that occur in truth or predictions; what is undefined (nothing to find and
    nothing found) counts 0. Computed here from the table of truth by prediction, because scikit-learn takes as long to
    look at its arguments as a small model to read a short text. Matthews' correlation is that of several labels
    (Gorodkin 2004, doi 10.1016/j.compbiolchem.2004.09.006).
    """
    labels = {label: number for number, label in enumerate(sorted({*truth, *predictions}))}
    table = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(table, ([labels[label] for label in truth], [labels[label] for label in predictions]), 1)
    right, true, found, rows = np.diag(table), table.sum(1), table.sum(0), len(truth)
    hits = int(right.sum())
    both = float((rows**2 - true @ true) * (rows**2 - found @ found))
    return {
        "macro_f1": float(np.mean(2 * right / (true + found))),
        "accuracy": hits / rows,
        "mcc": float((hits * rows - true @ found) / np.sqrt(both)) if both else 0.0,
    }
