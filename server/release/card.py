"""The model card of a release: README.md, with the front matter that Hugging Face reads, out of metrics.json.

Whatever is told of single institutions is in metrics.json already under the name that it may have in this release, so
that the card can be written again when somebody withdraws.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from server.rounds.outcomes import Outcome, outcomes
from shared.errors import joined
from shared.federation import Federation
from shared.tasks import build_task

CARD = """\
---
{front}
---
# {name}

{marks}A LoRA adapter and {heads}, trained by Collegium across {institutions} institutions (run {run}, best round
{best} of {last}).

{table}
{carried}{cut}{worst}
## Where it comes from
{lineage}

Method: {method}. {privacy}{secure}

## Audits
{audits}

## What is in it
Tasks: {tasks}. All metrics of all rounds are in metrics.json, the agreement, which names all whom it binds, is in
federation.toml. `collegium verify` tells whether all of it is as it was signed.
"""
WITHOUT_HEADS = "no task head (every institution keeps its heads at home)"
HUB = {"minilm-l6": "sentence-transformers/all-MiniLM-L6-v2"}
"""Where Hugging Face has the backbones that are known here by another name."""
IDENTIFIER, HUB_NAME = re.compile(r"[a-z0-9.-]+"), re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
UNNAMED = "An institution that is not named here"


def card(federation: Federation, metrics: Mapping[str, Any]) -> str:
    """The card, Markdown; how to use the bundle is added by who writes it.

    Args:
        federation: The agreement.
        metrics: As `server.release.making` writes them to metrics.json.
    """
    best = metrics["best_round"]
    privacy = federation.privacy
    return CARD.format(
        front="\n".join(f"{key}: {json.dumps(value)}" for key, value in _front(federation, metrics).items()),
        name=federation.name,
        marks="".join(f"> **{line}**\n\n" for line in _withdrawals(metrics["withdrawn"])),
        heads=_heads(len(metrics["tasks"])),
        institutions=len(federation.rounds.institutions),
        run=metrics["run"],
        best=best,
        last=max((row["round"] for row in metrics["rounds"]), default=0),
        table=_table(outcomes(metrics["scores"], best)),
        carried=_carried(metrics["carried"]),
        cut=_cut(metrics["cut_off"]),
        worst=_worst(metrics["worst"]),
        lineage=_lineage(metrics["lineage"]),
        method=federation.method_name,
        privacy=(
            f"Differential privacy of the owners of records by DP-SGD, at delta {privacy.delta:g}."
            if privacy
            else "No differential privacy."
        ),
        secure=" Updates were summed under secure aggregation." if federation.secure_aggregation else "",
        audits="\n".join(f"- {line}" for line in _audits(federation, metrics)),
        tasks=", ".join(f"{name} ({spec.type})" for name, spec in federation.tasks.items()),
    )


def spans(rounds: Sequence[int]) -> str:
    """Sorted rounds as people write them: 1-3, 5."""
    parts: list[list[int]] = []
    for number in rounds:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return joined((f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts), most=len(rounds) or 1)


def _front(federation: Federation, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What Hugging Face reads; a JSON value is a YAML value."""
    base = HUB.get(federation.backbone.name, federation.backbone.name)
    licence = federation.release.licence if federation.release else None
    front: dict[str, Any] = {"library_name": "peft"}
    if HUB_NAME.fullmatch(base):
        front["base_model"] = base
    if licence:
        known = IDENTIFIER.fullmatch(licence.lower()) is not None
        front |= {"license": licence.lower()} if known else {"license": "other", "license_name": licence}
    types = sorted({federation.tasks[task].type for task in metrics["tasks"]})
    front["tags"] = ["collegium", "federated-learning", "lora", "bert", *types]
    if results := list(_results(federation, metrics)):
        front["model-index"] = [{"name": federation.name, "results": results}]
    return front


def _results(federation: Federation, metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Per task, the mean and the lowest of the institutions' test scores in the task's own metric."""
    found = outcomes(metrics["scores"], metrics["best_round"])
    for task in metrics["tasks"]:
        metric = build_task(task, federation.tasks[task]).metric
        values = [row.after for row in found if (row.task, row.metric) == (task, metric) and row.after is not None]
        if values:
            told = (("mean over institutions", fmean(values)), ("worst institution", min(values)))
            yield {
                "task": {"type": federation.tasks[task].type, "name": task},
                "dataset": {"type": "private", "name": f"test records of {len(values)} institutions"},
                "metrics": [{"type": metric, "name": name, "value": round(value, 4)} for name, value in told],
            }


def _heads(count: int) -> str:
    return f"{count} task head{'s' if count > 1 else ''}" if count else WITHOUT_HEADS


def _withdrawals(withdrawn: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for one in withdrawn:
        who = one["institution"] or UNNAMED
        parts = [f"of {_rounds(numbers)} of run {run}" for run, numbers in one["rounds"].items()]
        told = "None of its updates is in this model."
        if parts:
            run, numbers = list(one["rounds"].items())[-1]
            told = (
                f"Its updates {joined(parts)} are in this model; from round {max(numbers) + 1} of run {run} on it is "
                "not in it."
            )
        yield f"{who} has withdrawn ({one['time'][:10]}). {told}"


def _rounds(numbers: Sequence[int]) -> str:
    return f"round{'s' if len(numbers) > 1 else ''} {spans(numbers)}"


def _lineage(found: Mapping[str, Any]) -> str:
    lines = ["| institution | rounds | records | epsilon | licence of its data |", "|---|---|---|---:|---|"]
    runs = found["runs"]
    for one in found["institutions"]:
        several = len(runs) > 1
        rounds = joined(
            (f"{spans(numbers)}{f' of {run}' if several else ''}" for run, numbers in one["rounds"].items()), "; "
        )
        counts = joined(f"{task} {count if count > 1 else 'not told'}" for task, count in one["examples"].items())
        spent = [one["epsilon"], one["evaluation_epsilon"]]
        epsilon = " + ".join(f"{value:.2f}" for value in spent if value is not None) or "none"
        licences = joined(f"{task} {licence}" for task, licence in one["licences"].items())
        cells = (one["institution"], rounds, counts or "not told", epsilon, licences or "not told")
        lines.append(f"| {' | '.join(cells)} |")
    hidden = sum(not one["named"] for one in found["institutions"])
    notes = [f"Of {len(found['institutions'])} institutions {hidden} have not consented to be named."] if hidden else []
    if any(one["evaluation_epsilon"] is not None for one in found["institutions"]):
        notes.append("Epsilon: what training has cost an owner, + what scores have cost an owner of other records.")
    if len(runs) > 1:
        told = joined((f"run {each['run']} up to round {each['up_to']}" for each in runs), ", then ")
        notes.append(f"It comes from {told}.")
    return "\n".join(lines) + "".join(f"\n\n{note}" for note in notes)


def _audits(federation: Federation, metrics: Mapping[str, Any]) -> Iterator[str]:
    asked = federation.release
    audits = metrics["audits"]
    exposed = [one["exposure"] for one in audits if one["exposure"] is not None]
    most = asked.max_exposure if asked else None
    limit = f" (at most {most:g} are allowed)" if most is not None else ""
    told = f"{max(exposed):.2f} bits on average{limit}; a secret never seen has 1.44" if exposed else "not audited"
    yield f"Exposure of planted secrets: {told}."
    most = asked.max_membership_auc if asked else None
    limit = f" (at most {most:g} is allowed)" if most is not None else ""
    told_tasks = [
        f"{one['task']} {one['membership']['auc']:.3f} ({one['membership']['low']:.3f} to "
        f"{one['membership']['high']:.3f})"
        for one in audits
        if one["membership"]
    ]
    told = f"{joined(told_tasks)}{limit}; 0.5 is guessing" if told_tasks else "not audited"
    yield f"Members told from other records, area under the curve: {told}."


def _worst(worst: Mapping[str, Any] | None) -> str:
    if worst is None:
        return "\nNo institution has told a score on test records.\n"
    return "\nThe worst score: {value:.3f}, {institution}'s {metric} of {task}.\n".format(**worst)


def _carried(carried: Sequence[Mapping[str, Any]]) -> str:
    """What the best round was chosen without, a paragraph; empty if nothing."""
    which = joined("{institution}'s {task} (its score of round {round} counted instead)".format(**c) for c in carried)
    return f"\nNot validated in that round: {which}.\n" if carried else ""


def _cut(error: float) -> str:
    """What the limit of the rank has cut off, a paragraph; empty if nothing."""
    return f"\nIts rank was limited: of a layer's product it lacks at most {error:.2%}.\n" if error else ""


def _table(found: Sequence[Outcome]) -> str:
    """Every metric on the test records, before training and after, as Markdown."""
    columns = [key for key in ("before", "after", "personal") if any(getattr(row, key) is not None for row in found)]
    lines = [f"| institution | task | metric | {' | '.join(columns)} |", "|---|---|---|" + "---:|" * len(columns)]
    for row in found:
        values = (getattr(row, key) for key in columns)
        shown = " | ".join("" if value is None else f"{value:.3f}" for value in values)
        lines.append(f"| {row.institution} | {row.task} | {row.metric} | {shown} |")
    return "\n".join(lines)
