"""`collegium predict`: a bundle applied to a text, or to a stream of records as it comes."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from client.answers.answering import answers_of, check_tasks, logits_of, question_of
from client.answers.masking import Masking
from client.answers.streams import ERROR, PIPE, Format, Output, count_rows, read, refusal
from shared.errors import ConfigError
from shared.inference.model import ReleasedModel
from shared.inference.opening import open_model


def predict_text(
    model: ReleasedModel,
    tasks: Sequence[str],
    text: str,
    second: str | None,
    *,
    logits: bool = False,
    masking: Masking | None = None,
) -> dict[str, Any]:
    """The answers to one text, by task.

    Args:
        model: The bundle's.
        tasks: Those that are asked; none means all that a plain text is enough for.
        text: The text.
        second: What goes with it: a question, the other text of a pair.
        logits: Whether to add what the heads said.
        masking: Replaces personal data before the model reads them.

    Raises:
        ConfigError: A task is unknown, or cannot read the text.
    """
    check_tasks(model, tasks)
    given = [{"text": text, "second": second} if second else text]
    ((row, wrong),) = _answered(model, tasks, given, logits=logits, masking=masking)
    if wrong:
        raise ConfigError(f"Task {', '.join(tasks) or 'all'}: {wrong}.")
    return row


def predict_stream(
    model: ReleasedModel,
    tasks: Sequence[str],
    source: str,
    target: str,
    *,
    read_as: Format | None = None,
    write_as: Format | None = None,
    whole: bool = False,
    logits: bool = False,
    masking: Masking | None = None,
) -> None:
    """Answer the records of a file or of standard input, in their order.

    Args:
        model: The bundle's.
        tasks: Those that are asked; none means all that can read a record.
        source: A file, or `-`.
        target: A new file, or `-`.
        read_as: Of standard input.
        write_as: Of standard output; otherwise as the target's suffix says.
        whole: Whether each record stands before its answers.
        logits: Whether to add what the heads said.
        masking: Replaces personal data before the model reads them.

    Raises:
        ConfigError: A task is unknown, or the target exists.
        DataError: There is no reading the source; or, when all else has been answered, rows were no records.
    """
    from client.data.loading import other_column

    check_tasks(model, tasks)
    asked = tasks or list(model.tasks)
    lists = {name for task in asked for name in model.tasks[task].lists if name not in model.tasks[task].targets}
    bad, count = list[tuple[int | str, str]](), 0
    output = Output(target, write_as)
    with output, _progress(source, target) as advance:
        for part in read(source, read_as, lists):
            given = [row if isinstance(row, dict) else None for _, row in part]
            rows: list[dict[str, Any]] = []
            for (number, row), own, (answers, wrong) in zip(
                part, given, _answered(model, tasks, given, logits=logits, masking=masking), strict=True
            ):
                reason = row if isinstance(row, str) else wrong and wrong + other_column(wrong, row)
                if reason:
                    bad.append((number, reason))
                rows.append({**((own or {}) if whole else {}), **answers, **({ERROR: reason} if reason else {})})
            output.write(rows)
            count += len(rows)
            advance(len(rows))
        output.keep()
    if bad:
        raise refusal(bad, count, source)


def open_quietly(bundle: Path, backbone: str | None) -> ReleasedModel:
    """As `open_model`; what libraries would warn of is not for whoever predicts."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return open_model(bundle, backbone=backbone)


def _answered(
    model: ReleasedModel, tasks: Sequence[str], given: Sequence[Any], *, logits: bool, masking: Masking | None
) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Answers by task, and why there are none."""
    question = question_of(model, tasks or list(model.tasks), given, strict=bool(tasks), masking=masking)
    found = model.infer(question.examples)
    rows = answers_of(model, question, found)
    if logits:
        rows = [row | {"logits": own} for row, own in zip(rows, logits_of(question, found), strict=True)]
    for place, row in enumerate(rows):
        wrong = question.wrong.get(place)
        yield ({}, wrong) if wrong else (row, None)


@contextmanager
def _progress(source: str, target: str) -> Iterator[Any]:
    """Tells how far a file is, on a terminal that nothing else is written to."""
    if not sys.stderr.isatty() or (target == PIPE and sys.stdout.isatty()):
        yield lambda rows: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("records"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("records", total=count_rows(source))
        yield lambda rows: progress.advance(task, rows)
