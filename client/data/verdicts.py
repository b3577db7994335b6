"""What the numbers of a readiness report mean: one finding per check, which says what to do."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from client.data.loading import FileReport
from client.data.quality import TROUBLES
from client.data.readiness import Report, SplitReport, TaskReport, majority_share, share
from shared.doctor.findings import Verdict
from shared.errors import joined, listed
from shared.federation import Adapter
from shared.fields import Split

MANY_DUPLICATES = 0.01
MANY_OVERLAPPING = 0.01
SAME_FILE = 0.5
"""From this share of a split's records that are in train too, its scores say nothing."""
MANY_CUT = 0.05
SHOWN = 5
"""Lines named in one finding."""
ONE_SIDED = 0.9
"""From this share of one label on, always guessing it looks good."""


@dataclass(frozen=True)
class Finding:
    """What one check says of one task, or of one of its splits."""

    verdict: Verdict
    task: str
    split: Split | None
    """None where it concerns all of them."""
    check: str
    text: str
    """What was found and what to do, in one sentence."""


Said = Iterator[tuple[Verdict, str]]


def judge(report: Report) -> list[Finding]:
    """All findings, task by task; a check that every split passes is one finding for all of them."""
    findings = []
    for name, task in report.items():
        if task.refused:
            findings.append(Finding("error", name, None, "table", task.refused))
        for check, look in FILE_CHECKS.items():
            verdicts = {split: list(look(name, file)) for split, file in task.files.items()}
            findings += _gather(name, check, verdicts)
        for check, examine in SPLIT_CHECKS.items():
            verdicts = {split: list(examine(task, split, each)) for split, each in task.splits.items() if each.records}
            findings += _gather(name, check, verdicts)
    return findings


def cached_bytes(report: Report, per_token: int) -> int:
    """About how much memory the states of all texts take, at so many bytes per sub-token."""
    held = [(task.max_length, split) for task in report.values() for split in task.splits.values() if split.lengths]
    return int(
        sum(split.records * min(split.lengths.median, most) for most, split in held if split.lengths) * per_token
    )


def describe_layers(adapter: Adapter, *, count: int, cached: int, room: int, varied: bool) -> str:
    """What `adapter.layers` spares, or would: in one sentence.

    Args:
        adapter: As agreed.
        count: The backbone's layers.
        cached: Bytes that the states below the lowest adapted layer take.
        room: Bytes that they may take.
        varied: Whether something else in the agreement makes texts pass through all layers in every step.
    """
    lowest = min(adapter.layer_numbers(count))
    spared = lowest or count // 2
    if not spared:
        return "The backbone has one layer, which every step passes."
    below = "layer 0" if spared == 1 else f"layers 0 to {spared - 1}"
    what = f"{below} of {count} once per text: {spared / count:.0%} of a step's products from the second epoch on"
    memory = f"{cached / 1e6:.0f} MB of memory" + (
        f", of which {room / 1e6:.0f} MB may be used" if cached > room else ""
    )
    if varied:
        why = "adapter.dropout or training.adversarial_epsilon is above 0"
        return f"Every text passes all {count} layers in every step, since {why}; without, {below} could be spared."
    if lowest:
        return f"adapter.layers spares {what}, for about {memory}."
    return (
        f'Every step passes all {count} layers; adapter.layers = "top-{count - spared}" would compute {what}, for '
        f"about {memory}; what it does to scores depends on the task, so try it with `collegium simulate`."
    )


def _gather(task: str, check: str, verdicts: dict[Split, list[tuple[Verdict, str]]]) -> list[Finding]:
    """The findings that are not ok; or else, if there is any, one that joins those that are."""
    findings = [
        Finding(verdict, task, split, check, text) for split, all_ in verdicts.items() for verdict, text in all_
    ]
    wrong = [finding for finding in findings if finding.verdict != "ok"]
    if wrong or not findings:
        return wrong
    splits = {finding.text: [f.split for f in findings if f.text == finding.text] for finding in findings}
    if len(splits) == 1:
        return [Finding("ok", task, None, check, findings[0].text)]
    return [Finding("ok", task, None, check, _join(splits))]


def _join(splits: Mapping[str, Sequence[Split | None]]) -> str:
    return "; ".join(f"{', '.join(map(str, named))}: {text.rstrip('.')}" for text, named in splits.items()) + "."


def _look_at_rows(task: str, file: FileReport) -> Said:
    refusal = file.refusal(task)
    yield ("error", refusal) if refusal else ("ok", "every row is a record of this task.")


def _look_at_encoding(task: TaskReport, split: Split, records: SplitReport) -> Said:
    file = task.files.get(split)
    wrong = sum(row.encoding for _, row in file.bad) if file else 0
    if not file or not wrong:
        return
    if records.non_ascii:
        yield (
            "error",
            f"{_rows(wrong)} not UTF-8 in {file.path.name}, but {records.non_ascii} others with "
            "characters beyond ASCII are: encodings are mixed, so convert the lines listed alone.",
        )
    else:
        yield (
            "error",
            f"{_rows(wrong)} not UTF-8 in {file.path.name}; convert the whole file, as from Windows by "
            "iconv -f WINDOWS-1252 -t UTF-8.",
        )


def _look_for_duplicates(task: TaskReport, split: Split, records: SplitReport) -> Said:
    found = f"{_count(records.duplicates, records.records)} repeat the text of an earlier one"
    if records.contradictions:
        yield (
            "warning",
            f"{found}, {records.contradictions} of them under another label; decide which label holds, and keep one.",
        )
    elif share(records.duplicates, records.records) >= MANY_DUPLICATES:
        yield "warning", f"{found}; keep one of each, or they count several times."
    else:
        yield "ok", f"{found}." if records.duplicates else "no row repeats another."


def _look_for_overlap(task: TaskReport, split: Split, records: SplitReport) -> Said:
    if split == "train":
        return
    found = f"{_count(records.overlap, records.records)} are in train too (but for case, white space and punctuation)"
    rate = share(records.overlap, records.records)
    if split not in task.files and rate >= MANY_OVERLAPPING:
        yield "warning", f"{found}, out of which they are held; take what is repeated out of that file."
    elif rate >= SAME_FILE:
        yield "error", f"{found}; name a {split} file of other records, because its scores would mean nothing."
    elif rate >= MANY_OVERLAPPING:
        yield "warning", f"{found}; take them out of train, because they flatter the scores."
    else:
        yield "ok", f"{found}." if records.overlap else "no row is in train too."


def _look_at_owners(task: TaskReport, split: Split, records: SplitReport) -> Said:
    found = task.owners.get(split)
    if found is None or split == "train":
        return
    if found.trained:
        named = joined(map(repr, found.trained), most=SHOWN)
        yield (
            "warning",
            f"{len(found.trained)} of {found.owners} owners are in train too ({named}); keep each to one of the two, "
            "because they flatter the scores, which under [privacy] then reveal owners who are trained on.",
        )
    else:
        yield "ok", f"none of {found.owners} owners is in train too."


def _look_at_lengths(task: TaskReport, split: Split, records: SplitReport) -> Said:
    lengths = records.lengths
    if lengths is None:
        return
    parts = []
    if lengths.cut:
        parts.append(f"{_count(lengths.cut, lengths.measured)} are cut to {task.max_length} sub-tokens")
    if lengths.windowed:
        parts.append(f"{_count(lengths.windowed, lengths.measured)} are read in several windows of {task.max_length}")
    if share(lengths.cut, lengths.measured) >= MANY_CUT:
        yield "warning", f"{' and '.join(parts)}; {_longer(task)}put what decides first."
    else:
        yield "ok", f"{' and '.join(parts)}." if parts else f"every row fits {task.max_length} sub-tokens."


def _look_at_text(task: TaskReport, split: Split, records: SplitReport) -> Said:
    passed = []
    for name, trouble in TROUBLES.items():
        lines = records.troubles.get(name, ())
        if share(len(lines), records.records) > trouble.tolerated:
            where = joined(lines, most=SHOWN)
            yield "warning", f"{_count(len(lines), records.records)} have {name} (lines {where}); {trouble.advice}."
        elif lines:
            passed.append(f"{_count(len(lines), records.records)} have {name}")
    yield "ok", f"{' and '.join(passed)}." if passed else "every row reads as text."


def _look_at_labels(task: TaskReport, split: Split, records: SplitReport) -> Said:
    if not task.labels or split != "train":
        return
    if missing := [label for label in task.labels if label not in records.labels]:
        yield (
            "warning",
            f"no row bears {listed(missing)[1:-1]}; check how your labels are spelt, or, if you do not "
            "annotate it, leave it out of `annotates`.",
        )
    if (most := majority_share(records)) >= ONE_SIDED and len(task.labels) > 1:
        label = max(records.labels, key=lambda label: records.labels[label])
        yield (
            "warning",
            f"{most:.0%} of the labels are {label!r}; bring more of the others, and do not judge by accuracy, which "
            "rises by always guessing it.",
        )
    elif not missing:
        yield "ok", f"all {len(task.labels)} labels occur, the most frequent with {most:.0%}."


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count} rows are"


def _count(part: int, whole: int) -> str:
    return f"{part} of {whole} rows ({part / whole:.1%})"


def _longer(task: TaskReport) -> str:
    return "agree on a larger backbone.max_length (up to 512), or " if task.max_length < 512 else ""


FILE_CHECKS: dict[str, Callable[[str, FileReport], Said]] = {"rows": _look_at_rows}
SPLIT_CHECKS: dict[str, Callable[[TaskReport, Split, SplitReport], Said]] = {
    "encoding": _look_at_encoding,
    "text": _look_at_text,
    "duplicates": _look_for_duplicates,
    "overlap": _look_for_overlap,
    "owners": _look_at_owners,
    "length": _look_at_lengths,
    "labels": _look_at_labels,
}
