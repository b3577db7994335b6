"""Everything that the coordinator's doctor looks at, in its order; nothing is changed."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from server.doctor import federation as agreed
from server.doctor import folder
from server.doctor.forecast import Forecast, check_forecast, describe, forecast_as_json, foresee
from server.home import ServerHome, ServerSettings, open_home, read_settings
from server.opening import open_store
from server.service.operator import Node, OperatorClient
from server.store import SCHEMA_VERSION, Store, store_version
from shared.doctor.findings import OVERALL, Finding, as_finding, print_findings, summed_up, worst
from shared.doctor.machine import check_private
from shared.errors import CollegiumError, ConfigError, ConnectionFailedError, StoreError
from shared.federation import Federation, load_federation


@dataclass(frozen=True)
class Examination:
    """What the doctor has found."""

    findings: list[Finding]
    forecast: Forecast | None
    """None where nothing was measured."""


def examine(root: Path, *, measured: bool = True) -> Examination:
    """Look at a coordinator's folder, its machine, its server if it is up, and what a run would take.

    Args:
        root: The folder.
        measured: Whether to draw the initial state, for the forecast.

    Raises:
        ConfigError: It is no coordinator's folder, or a secret of it is missing or open to others.
    """
    home = open_home(root)
    found: list[Finding] = []
    settings: ServerSettings | None = None
    federation: Federation | None = None
    with as_finding("settings", found):
        settings = read_settings(home)
        found.append(Finding("settings", "ok", f"{home.settings_file.name} is right."))
    with as_finding("agreement", found):
        federation = load_federation(home.federation_file)
        text = f"{home.federation_file.name} is right; its digest is {federation.digest[:12]}..."
        found.append(Finding("agreement", "ok", text))
    with ExitStack() as stack:
        store = _store(home, settings)
        if store:
            stack.enter_context(store)
        found += _look_at_folder(home, settings, store)
        if federation is None or settings is None:
            return Examination(found, None)
        found += _look_at_agreement(home, federation, store)
        forecast = None
        if (
            measured
            and worst(finding.verdict for finding in found if finding.check in ("backbone", "store")) != "error"
        ):
            try:
                forecast = foresee(home, federation, store, datetime.now().astimezone())
                found.append(check_forecast(home, forecast))
            except CollegiumError as error:
                found.append(Finding("initial state", "error", str(error)))
        return Examination(found, forecast)


def _look_at_folder(home: ServerHome, settings: ServerSettings | None, store: Store | None) -> Iterator[Finding]:
    yield check_private(folder.private_paths(home))
    yield folder.check_certificate(home)
    yield folder.check_clock(agreed.latest(store))
    yield folder.check_flower()
    if settings:
        yield folder.check_hosts(home, settings)
        yield from folder.check_ports(home, settings)
        yield folder.check_store(home, settings)


def _look_at_agreement(home: ServerHome, federation: Federation, store: Store | None) -> Iterator[Finding]:
    nodes = _nodes(home)
    yield folder.check_backbone(home, federation)
    yield agreed.check_enrolled(federation, nodes)
    if keys := agreed.check_keys(federation, nodes):
        yield keys
    yield agreed.check_runs(store, federation)
    yield agreed.check_labels(store)


def _nodes(home: ServerHome) -> list[Node] | None:
    """Who is enrolled; None where nobody can be asked."""
    try:
        with OperatorClient(home) as operator:
            return operator.nodes()
    except (ConnectionFailedError, ConfigError):
        return None


def _store(home: ServerHome, settings: ServerSettings | None) -> Store | None:
    """The store, if opening it changes nothing."""
    try:
        if settings and store_version(settings.store_url or home.default_store_url) == SCHEMA_VERSION:
            return open_store(home.root)
    except (ConfigError, StoreError):  # which `folder.check_store` tells
        pass
    return None


def as_json(found: Examination) -> dict[str, Any]:
    """As plain data: verdict, findings, forecast."""
    return {
        "verdict": OVERALL[worst(finding.verdict for finding in found.findings)],
        "findings": [asdict(finding) for finding in found.findings],
        "forecast": forecast_as_json(found.forecast) if found.forecast else None,
    }


def print_examination(found: Examination) -> None:
    """Print a verdict per finding, the forecast, and the verdict on all."""
    print_findings(found.findings, "This coordinator")
    if found.forecast:
        print(describe(found.forecast))
    print(summed_up([finding.verdict for finding in found.findings]))
