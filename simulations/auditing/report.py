"""What an audit found, for people and for machines: audit.html, audit.json, and a few lines."""

import html
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from shared.errors import StoreError
from simulations.auditing import plots
from simulations.auditing.bundle import BundleAudit
from simulations.auditing.membership import Membership
from simulations.auditing.training import ALTERNATIVES, TrainingAudit

Audit = TrainingAudit | BundleAudit
JSON_FILE, PAGE_FILE = "audit.json", "audit.html"
UNSEEN_EXPOSURE = 1.44
"""Bits of exposure of a secret that was never seen, on average: 1 / ln 2."""
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2329; max-width: 760px; margin: 32px auto; padding: 0 16px; }
h1 { font-size: 24px; margin-bottom: 4px; } h2 { font-size: 17px; margin: 28px 0 6px; }
p.verdict { font-size: 17px; padding: 10px 14px; border-left: 4px solid #0b6e99; background: #eef4f7; }
p.bad { border-color: #c0392b; background: #fbeeec; }
table { border-collapse: collapse; width: 100%; } th, td { padding: 4px 8px; border-bottom: 1px solid #dfe3e6; }
th { font-weight: 600; } th, td { text-align: right; } th:first-child, td:first-child { text-align: left; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: #1d2329; }
svg .label { fill: #59636e; } svg .grid { stroke: #dfe3e6; } footer, .note { color: #59636e; font-size: 13px; }
"""
KINDS = {
    "gradient": "gradients of a coordinate of their own, at the trainer of one institution, whose noisy gradients the "
    "attacker sees",
    "text": "texts of rare random words with random labels, in a run of the whole federation, whose last state the "
    "attacker sees",
    "secrets": "synthetic personal numbers in sentences, in a run of the whole federation, whose last state the "
    "attacker sees",
    "site": "the whole way of the files to the updates, with one owner or without, all of which the attacker knows but "
    "that",
}

SCORES = {
    "gradient": "contributions of one owner, summed over all steps, with the noise",
    "text": "fall of the loss from the initial state to the last",
    "secrets": "fall of the loss from the initial state to the last",
    "site": "how far the updates went the owner's way, with the noise",
}


def as_json(audit: Audit) -> dict[str, Any]:
    """The whole audit as plain data, all scores included."""
    if isinstance(audit, BundleAudit):
        return {"audit": "bundle", "verdict": verdict(audit)} | asdict(audit)
    found = {"audit": "training", "verdict": verdict(audit), "violated": audit.violated} | asdict(audit)
    if not audit.exposure_in:
        del found["exposure_in"], found["exposure_out"]
    return found


def write_report(audit: Audit, folder: Path) -> None:
    """Write audit.json and audit.html, which needs no other file, into a folder; both or none.

    Raises:
        StoreError: The disk refuses.
    """
    texts = {JSON_FILE: json.dumps(as_json(audit), indent=2) + "\n", PAGE_FILE: page(audit)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".collegium-", dir=folder) as building:
            for name, text in texts.items():
                Path(building, name).write_text(text, encoding="utf-8")
            for name in texts:
                Path(building, name).replace(folder / name)
    except OSError as error:
        raise StoreError(f"Could not write the audit into {folder}: {error}; name another folder by --out.") from error


def is_violated(audit: Audit) -> bool:
    """Whether more is certainly lost than is reported; a bundle reports nothing to compare with."""
    return isinstance(audit, TrainingAudit) and audit.violated


def verdict(audit: Audit) -> str:
    """The result in one sentence, or a few."""
    percent = f"{audit.confidence:.0%}"
    if isinstance(audit, BundleAudit):
        found = audit.by_drop
        blind = found.low <= 0.5 <= found.high
        return (
            f"A member scores above another record with probability {found.auc:.3f} ({percent} interval "
            f"{found.low:.3f} to {found.high:.3f}), "
            + ("no better than guessing." if blind else "which is not guessing (0.5): compare the two files.")
        )
    bound = f"Epsilon is at least {audit.bound.epsilon:.2f} ({percent} confidence)"
    if audit.reported is None:
        return f"{bound}; the training had no [privacy], so nothing is promised."
    if audit.violated:
        return f"{bound}, but {audit.reported:.2f} is reported: the guarantee is broken."
    blunt = (
        f" No bug can show itself here, since perfect guesses would prove {audit.bound.ceiling:.2f} only: plant more "
        "canaries, or audit a smaller epsilon."
        if audit.bound.ceiling <= audit.reported
        else ""
    )
    return f"{bound}, and {audit.reported:.2f} is reported: nothing contradicts it.{blunt}"


def lines(audit: Audit) -> list[str]:
    """What a terminal shows."""
    if isinstance(audit, BundleAudit):
        return [verdict(audit), *_rates(audit.by_drop)]
    sentences = [verdict(audit)]
    if audit.exposure_in:
        sentences.append(_exposed(audit))
    return sentences


def page(audit: Audit) -> str:
    """The audit as one HTML page without external resources."""
    bad = is_violated(audit)
    body = _bundle_body(audit) if isinstance(audit, BundleAudit) else _training_body(audit)
    title = "Audit of a released bundle" if isinstance(audit, BundleAudit) else "Audit of private training"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<style>{STYLE}</style></head><body><h1>{title}</h1><p class="verdict{" bad" if bad else ""}">'
        f"{html.escape(verdict(audit))}</p>{body}"
        f"<footer><p>All figures and scores are in {JSON_FILE}, beside this page.</p></footer></body></html>\n"
    )


def _training_body(audit: TrainingAudit) -> str:
    total = len(audit.scores_in) + len(audit.scores_out)
    where = f"{audit.institution}, task {audit.task}" if audit.task else audit.institution
    counted = "runs" if audit.kind == "site" else "canaries"
    values = {"lower bound": audit.bound.epsilon}
    if audit.reported is not None:
        values["reported"] = audit.reported
    values["provable at most"] = audit.bound.ceiling
    intro = (
        f"{total} {counted} at {where}: {KINDS[audit.kind]}. Each was in or out by a fair coin. Delta {audit.delta:g}"
        + (f"; the noise was multiplied by {audit.noise_factor:g} to test the audit" if audit.noise_factor != 1 else "")
        + "."
    )
    guesses = [(g.k_plus, g.k_minus, g.correct, f"{g.epsilon:.2f}") for g in audit.bound.guesses]
    parts = [
        f"<p>{html.escape(intro)}</p>",
        "<h2>Lower bound beside the reported epsilon</h2>",
        plots.bars(values, f"epsilon at delta {audit.delta:g}"),
        "<h2>Scores of canaries in and out</h2>",
        plots.histogram({"in": audit.scores_in, "out": audit.scores_out}, SCORES[audit.kind]),
        "<h2>Guesses</h2>",
        _table(("guessed in", "guessed out", "correct", "epsilon at least"), guesses),
        '<p class="note">The numbers of guesses are fixed beforehand; each choice is tested at an equal share of the '
        "error, so that the best of them may be taken.</p>",
    ]
    if audit.exposure_in:
        parts += [
            "<h2>Exposure of planted secrets</h2>",
            plots.histogram({"in": audit.exposure_in, "out": audit.exposure_out}, "bits"),
            f"<p>{html.escape(_exposed(audit))}</p>",
        ]
    return "".join([*parts, "<h2>The same scores as membership inference</h2>", _membership(audit.membership, audit)])


def _bundle_body(audit: BundleAudit) -> str:
    allowed = f" Its agreement allows epsilon {audit.epsilon:g}." if audit.epsilon else ""
    intro = (
        f"{audit.bundle}, task {audit.task}: {len(audit.scores_in)} members and {len(audit.scores_out)} other records. "
        f"The score is by how much a record's loss fell from the federation's initial state to the bundle.{allowed}"
    )
    return "".join(
        [
            f"<p>{html.escape(intro)}</p><h2>Scores of members and others</h2>",
            plots.histogram({"members": audit.scores_in, "others": audit.scores_out}, "fall of the loss"),
            "<h2>Members found against false alarms</h2>",
            plots.trade_off(audit.scores_in, audit.scores_out),
            "<h2>By the fall of the loss</h2>",
            _membership(audit.by_drop, audit),
            "<h2>By the loss under the bundle alone</h2>",
            _membership(audit.by_loss, audit),
        ]
    )


def _membership(found: Membership, audit: Audit) -> str:
    percent = f"{audit.confidence:.0%}"
    rows: list[tuple[str, str, str]] = [
        ("area under the curve", f"{found.auc:.3f}", f"{found.low:.3f} to {found.high:.3f}")
    ]
    few = any(not rate.resolved for rate in found.rates)
    rows += [
        (
            f"found at {rate.false_positive_rate:.1%} false alarms{'' if rate.resolved else ' *'}",
            f"{rate.true_positive_rate:.1%}",
            f"{rate.low:.1%} to {rate.high:.1%}",
        )
        for rate in found.rates
    ]
    note = '<p class="note">* Too few others for that rate: no false alarm at all is allowed.</p>' if few else ""
    return _table(("", "value", f"{percent} interval"), rows) + note


def _rates(found: Membership) -> list[str]:
    return [
        f"Found at {rate.false_positive_rate:.1%} false alarms: {rate.true_positive_rate:.1%} of the members "
        f"({rate.low:.1%} to {rate.high:.1%})"
        + ("." if rate.resolved else "; there are too few others, so no false alarm is allowed.")
        for rate in found.rates
    ]


def _exposed(audit: TrainingAudit) -> str:
    return (
        f"Mean exposure of the {len(audit.exposure_in)} planted secrets is {mean(audit.exposure_in):.2f} bits, of the "
        f"{len(audit.exposure_out)} that were not planted {mean(audit.exposure_out):.2f}; a secret never seen has "
        f"about {UNSEEN_EXPOSURE}, the highest possible is {(ALTERNATIVES + 1).bit_length() - 1}."
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(value))}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
