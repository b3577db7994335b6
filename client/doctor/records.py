"""The text readiness report of an institution's own files, and what would keep its daemon from starting."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from client.data.holdout import key_of_seed
from client.data.readiness import Report, survey
from client.data.verdicts import Finding, cached_bytes, describe_layers, judge
from client.institution import Institution, load_institution
from client.keys import check_agreed_key, read_public_key
from client.policy import Owners
from client.preflight import check_backbone, check_data, check_owners, check_terms, device_of, is_charged, open_kept
from client.service import daemon
from client.service.daemon import LOCK
from client.train.precision import is_bfloat16
from shared.doctor.findings import VERDICTS
from shared.errors import CollegiumError, Reasons
from shared.federation import Federation, load_federation
from shared.fields import SPLITS
from shared.model.backbone import Outline
from shared.model.frozen import memory_share
from shared.nodekeys import fingerprint
from shared.process.console import print_table
from shared.process.lock import holder
from shared.tasks import build_task

SHOWN = 5
"""Bad rows shown of each file; `--json` has them all."""
LABELS_SHOWN = 20
"""Labels shown of each task."""


def examine_records(path: Path, data: Path | None = None) -> tuple[Report, list[Finding]]:
    """Survey the files that `institution.toml` names, judge them, and find what else would keep a site from starting.

    Of the backbone no weights are loaded, and nothing is written.

    The site's key decides who is held out; until the daemon's first start has made it, another stands for it.

    Args:
        path: `institution.toml`.
        data: Folder that relative paths of data files start from, instead of the file's own.

    Raises:
        ConfigError: The institution's file or the federation file is wrong.
        BackboneError: There is no tokenizer to survey the records with; the message names the other faults too.
    """
    institution = load_institution(path, data=data)
    federation = load_federation(institution.federation)
    reasons = Reasons()
    check_terms(institution, federation, reasons)
    kept = open_kept(institution, federation, reasons, make=False)
    backbone = check_backbone(institution, federation, reasons)
    if backbone is None:
        check_data(institution, federation, kept.split_key, reasons)
        reasons.end()
    assert backbone
    tasks = {name: build_task(name, spec) for name, spec in federation.tasks.items()}
    report = survey(
        institution.data,
        tasks,
        backbone.tokenizer,
        federation.backbone.max_length,
        kept.split_key or key_of_seed(federation.seed),
        private=is_charged(institution, federation),
    )
    trained: Owners = {name: {"train": task.trained} for name, task in report.items() if task.trained}
    check_owners(institution.policy, federation, trained, reasons)
    start = [Finding("error", "site", None, "start", str(error)) for error in reasons.found]
    named = f"the backbone is the agreed one, with the fingerprint {federation.backbone.sha256[:12]}..."
    start.append(Finding("ok", "all", None, "backbone", named))
    layers = [] if reasons.found else list(_look_at_layers(institution, federation, backbone, report))
    return report, [*start, *_look_at_machine(institution), *judge(report), *layers]


def _look_at_machine(institution: Institution) -> Iterator[Finding]:
    """What the daemon would miss here; files that come with enrolment are a warning while they are not there."""
    ca, key, state = institution.server.ca, institution.identity.key, institution.runtime.state
    busy = holder(state / LOCK)
    checks = {
        daemon.check_certificate: ca.exists(),
        daemon.check_key: key.exists(),
        daemon.check_state: True,
        daemon.check_proxy: True,
    }
    for check, needed in (checks if busy else checks | {daemon.check_port: True}).items():
        try:
            check(institution)
        except CollegiumError as error:
            yield Finding("error" if needed else "warning", "site", None, "start", str(error))
    if busy:
        found = f"process {busy} serves the state folder {state}; stop it before you start another daemon."
        yield Finding("warning", "site", None, "start", found)


def _look_at_layers(
    institution: Institution, federation: Federation, backbone: Outline, report: Report
) -> Iterator[Finding]:
    """What the layers that are not adapted spare, or half of all would; nothing where heads alone are trained."""
    if federation.method.frozen:
        return
    precise = not is_bfloat16(device_of(institution), federation.training.precision)
    text = describe_layers(
        federation.adapter,
        count=backbone.shape.layers,
        cached=cached_bytes(report, backbone.shape.hidden * (4 if precise else 2)),
        room=memory_share(),
        varied=federation.adapter.dropout > 0 or federation.training.adversarial_epsilon > 0,
    )
    yield Finding("ok", "all", None, "layers", text)


def agreed_keys(path: Path) -> dict[str, str]:
    """Fingerprints of the node keys that the agreement names; none without [secure_aggregation].

    Raises:
        ConfigError, EnrolmentError: Under this institution's name stands another key than its own, or it has none.
    """
    institution = load_institution(path)
    federation = load_federation(institution.federation)
    if federation.secure_aggregation is None:
        return {}
    check_agreed_key(read_public_key(institution.identity.key), institution.name, federation)
    return {name: fingerprint(key) for name, key in federation.secure_aggregation.keys.items()}


def print_records(report: Report, findings: Sequence[Finding], keys: Mapping[str, str]) -> None:
    """Print the numbers, the first bad rows, a verdict per finding, and the agreed node keys."""
    _print_rows(report)
    _print_lengths(report)
    _print_labels(report)
    _print_bad_rows(report)
    worst_first = sorted(findings, key=lambda finding: -VERDICTS.index(finding.verdict))
    rows = [(f.verdict, f.task, f.split or "all", f.check, f.text) for f in worst_first]
    print_table(("verdict", "task", "split", "check", "finding"), rows, title="Findings", wrapped="finding")
    if keys:
        title = "Node keys of the agreement: ask each institution whether its own is right"
        print_table(("institution", "fingerprint"), list(keys.items()), title=title)


def _print_rows(report: Report) -> None:
    rows: list[tuple[Any, ...]] = []
    for name, task in report.items():
        for split in SPLITS:
            file, used = task.files.get(split), task.splits.get(split)
            if file or used:
                rows.append(
                    (
                        name,
                        split if file else f"{split} (held out)",
                        file.rows if file else None,
                        len(file.bad) if file else None,
                        used.records if used else 0,
                        used.duplicates if used else 0,
                        used.overlap if used and split != "train" else None,
                        len({number for lines in used.troubles.values() for number in lines}) if used else 0,
                    )
                )
    columns = ("task", "split", "rows", "bad", "used", "repeated", "in train too", "broken text")
    print_table(columns, rows, title="Rows")


def _print_lengths(report: Report) -> None:
    rows = []
    for name, task in report.items():
        for split in SPLITS:
            if (used := task.splits.get(split)) and (each := used.lengths):
                numbers = (each.measured, each.shortest, round(each.median), round(each.p95), each.longest)
                rows.append((name, split, *numbers, task.max_length, _rate(each.cut, each), _rate(each.windowed, each)))
    columns = ("task", "split", "measured", "shortest", "median", "p95", "longest", "fits", "cut", "windowed")
    print_table(columns, rows, title="Length in sub-tokens")


def _print_labels(report: Report) -> None:
    rows: list[tuple[Any, ...]] = []
    for name, task in report.items():
        if not task.labels:
            continue
        counts = {split: used.labels for split, used in task.splits.items()}
        in_all = sum(map(Counter, counts.values()), Counter[str]())
        labels = sorted(task.labels, key=lambda label: -in_all[label])
        for label in labels[:LABELS_SHOWN]:
            rows.append((name, label, *(counts.get(split, {}).get(label, 0) for split in SPLITS)))
        if len(labels) > LABELS_SHOWN:
            rest = labels[LABELS_SHOWN:]
            sums = (sum(counts.get(split, {}).get(label, 0) for label in rest) for split in SPLITS)
            rows.append((name, f"({len(rest)} more)", *sums))
        unlabelled = [task.splits[split].unlabelled if split in task.splits else 0 for split in SPLITS]
        if any(unlabelled):
            rows.append((name, "(rows without any)", *unlabelled))
    if rows:
        print_table(("task", "label", *SPLITS), rows, title="Labels")


def _print_bad_rows(report: Report) -> None:
    rows = []
    for name, task in report.items():
        for file in task.files.values():
            rows += [(name, f"{file.path.name}:{number}", row.what) for number, row in file.bad[:SHOWN]]
            if len(file.bad) > SHOWN:
                rows.append((name, file.path.name, f"and {len(file.bad) - SHOWN} more; --json lists them all"))
    if rows:
        print_table(("task", "line", "what is wrong"), rows, title="Bad rows", wrapped="what is wrong")


def _rate(part: int, lengths: Any) -> str:
    return f"{part / lengths.measured:.1%}"
