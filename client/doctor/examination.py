"""All that the doctor looks at, in its order: records, site, the way to the coordinator, a piece of a round."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from client.data.readiness import Report, summary
from client.data.verdicts import Finding as RecordFinding
from client.doctor.coordinator import look_at_coordinator
from client.doctor.forecast import Forecast, describe, forecast_as_json, foresee, judge_trial, try_round
from client.doctor.records import agreed_keys, examine_records, print_records
from client.institution import Institution, federations_of, load_institution
from client.privacy.account import ledger_file
from shared.doctor.findings import OVERALL, Finding, Verdict, as_finding, print_findings, summed_up, worst
from shared.doctor.machine import check_private
from shared.federation import Federation, load_federation


@dataclass(frozen=True)
class Examination:
    """What the doctor has found."""

    report: Report
    records: list[RecordFinding]
    """Of the records, and what keeps the site from starting."""
    site: list[Finding]
    """Of all else."""
    forecast: Forecast | None
    """None where nothing was tried."""
    keys: Mapping[str, str]
    """Fingerprints of the node keys that the agreement names."""

    @property
    def verdicts(self) -> list[Verdict]:
        """Of all findings."""
        return [*(finding.verdict for finding in self.records), *(finding.verdict for finding in self.site)]


def check_agreement(institution: Institution, federation: Federation) -> Finding | None:
    """Which agreement the site would answer under; one that it has not approved is told under `start`."""
    approved, named = institution.policy.federations, f"The digest of {institution.federation.name} is "
    if approved is None:
        text = f"{named}{federation.digest[:12]}...; without policy.federations whatever stands in it counts."
        advice = "Name it in policy.federations once you have read the file, so that another one is refused."
        return Finding("agreement", "ok", text, advice)
    if federation.digest not in approved:
        return None
    return Finding("agreement", "ok", f"{named}{federation.digest[:12]}..., which policy.federations has.")


def check_permissions(institution: Institution, federation: Federation) -> Finding:
    """Who may open the site's key and what it keeps."""
    runtime = institution.runtime
    return check_private([institution.identity.key, runtime.state, ledger_file(institution)])


SITE_CHECKS: tuple[Callable[[Institution, Federation], Finding | None], ...] = (
    check_agreement,
    check_permissions,
)
"""Of this site alone; those of the coordinator and of the trial have their lists beside them."""


def examine(path: Path, data: Path | None = None, *, tried: bool = True) -> Examination:
    """Look at everything; nothing is written, and nothing of the records is sent.

    Args:
        path: `institution.toml`.
        data: Folder that relative paths of data files start from, instead of the file's own.
        tried: Whether to try a piece of a round, if nothing keeps the site from starting.

    Raises:
        ConfigError, EnrolmentError, BackboneError: As `records.examine_records` and `records.agreed_keys`.
    """
    keys = agreed_keys(path)
    report, records = examine_records(path, data)
    institution = load_institution(path, data=data)
    federation = load_federation(institution.federation)
    own = [check(institution, federation) for check in SITE_CHECKS]
    site = [*filter(None, own), *look_at_coordinator(institution)]
    forecast = None
    if tried and worst(finding.verdict for finding in records) != "error":
        trial = try_round(path, data, institution.runtime.threads)
        if isinstance(trial, Finding):
            site.append(trial)
        else:
            forecast = foresee(trial, federation, datetime.now().astimezone())
            site += judge_trial(trial, forecast, institution, federation)
    return Examination(report, records, site, forecast, keys)


def examine_all(path: Path, data: Path | None = None, *, tried: bool = True) -> dict[str, Examination]:
    """Look at everything, in each federation that the file has a table for; as `examine`.

    Returns:
        By the federation's name, which is empty where the file is of one alone. What keeps one of several from being
        looked at is a finding, and the others are looked at.
    """
    names = federations_of(path)
    if not names:
        return {"": examine(path, data, tried=tried)}
    found: dict[str, Examination] = {}
    for name in names:
        obstacles: list[Finding] = []
        with as_finding("start", obstacles):
            found[name] = examine(path.with_name(f"{path.name}#{name}"), data, tried=tried)
        if obstacles:
            found[name] = Examination({}, [], obstacles, None, {})
    return found


def verdicts_of(found: Mapping[str, Examination]) -> list[Verdict]:
    """Of all findings in all federations."""
    return [verdict for each in found.values() for verdict in each.verdicts]


def all_as_json(found: Mapping[str, Examination]) -> dict[str, Any]:
    """As plain data: of one federation alone as `as_json`; of several the verdict on all, and each by its name."""
    if "" in found:
        return as_json(found[""])
    each = {name: as_json(examination) for name, examination in found.items()}
    return {"verdict": OVERALL[worst(verdicts_of(found))], "federations": each}


def print_all(found: Mapping[str, Examination]) -> None:
    """As `print_examination`; of several federations one after the other, and then the verdict on all."""
    for name, examination in found.items():
        if name:
            print(f"\nFederation {name}")
        print_examination(examination)
    if "" not in found:
        print(f"\nOf all {len(found)} federations: {summed_up(verdicts_of(found))}")


def as_json(found: Examination) -> dict[str, Any]:
    """As plain data: verdict, findings, all numbers, the summary that the coordinator may get, agreed node keys."""
    return {
        "verdict": OVERALL[worst(found.verdicts)],
        "findings": [asdict(finding) for finding in found.records],
        "site": [asdict(finding) for finding in found.site],
        "forecast": forecast_as_json(found.forecast) if found.forecast else None,
        "tasks": {name: asdict(task) for name, task in found.report.items()},
        "summary": summary(found.report),
        "node_keys": dict(found.keys),
    }


def print_examination(found: Examination) -> None:
    """Print the numbers, a verdict per finding, the forecast, and the verdict on all."""
    print_records(found.report, found.records, found.keys)
    print_findings(found.site, "This site and its coordinator")
    if found.forecast:
        print(describe(found.forecast))
    print(summed_up(found.verdicts))
