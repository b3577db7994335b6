"""`collegium client agreement`, `approve` and `decline`: what is asked of this institution, and its word."""

from pathlib import Path
from typing import Any

from client.agreement.approval import Agreements, approve, check_offer, decline, read_agreements
from client.agreement.asking import ask
from client.institution import Institution, load_institution
from client.policy import objections
from shared.errors import CollegiumError, ConfigError, ConnectionFailedError
from shared.federation import Federation
from shared.process.console import print_lines


def examine(path: Path) -> dict[str, Any]:
    """What is in force, what is approved and what is offered, once the coordinator has been asked.

    Args:
        path: `institution.toml`.

    Raises:
        ConfigError, EnrolmentError, ProtocolError, StoreError: As `ask`, but where the coordinator is out of reach.
    """
    institution = load_institution(path)
    found, unheard = _asked(institution)
    return {
        "in_force": found.current.digest,
        "coming": found.coming.digest if found.coming else None,
        "offered": found.offered.digest if found.offered else None,
        "declined": found.offered is not None and found.offered.digest == found.declined,
        "changes": found.changes,
        "obstacles": obstacles(institution, found.offered) if found.offered else [],
        "not_heard": unheard,
    }


def print_report(report: dict[str, Any], path: Path) -> None:
    """For a terminal."""
    print_lines(f"In force: {report['in_force']}")
    if report["coming"]:
        print_lines(f"Approved, in force with the first request under it: {report['coming']}")
    if report["not_heard"]:
        print_lines(report["not_heard"])
    if not report["offered"]:
        print("Nothing else is offered.")
        return
    print_lines(f"Offered{' and declined' if report['declined'] else ''}: {report['offered']}")
    for line in report["changes"]:
        print_lines(f"  {line}")
    for line in report["obstacles"]:
        print_lines(f"It cannot be answered under as things are: {line}")
    print_lines(f"To answer: collegium client approve {report['offered']} --institution {path}")
    print_lines(f"       or: collegium client decline {report['offered']} --institution {path}")


def decide(path: Path, digest: str, *, approved: bool) -> str:
    """Approve or decline an offer here, then tell the coordinator; a sentence that says how that went.

    Raises:
        ConfigError: There is no such offer, or it cannot be approved or declined.
        StoreError: The decision cannot be written.
    """
    institution = load_institution(path)
    if approved:
        offer = read_agreements(institution).offered
        if offer is not None and offer.digest == digest and (against := obstacles(institution, offer)):
            raise ConfigError(f"Expected a file that this site can answer under, but {against[0]}")
        approve(institution, digest)
        done = f"Approved {digest}: in force with the first request under it; runs under the old one may end."
    else:
        decline(institution, digest)
        done = f"Declined {digest}."
    try:
        ask(institution)
    except CollegiumError as error:
        return f"{done} The coordinator has not been told yet: {error}"
    return f"{done} The coordinator knows."


def _asked(institution: Institution) -> tuple[Agreements, str | None]:
    try:
        return ask(institution), None
    except ConnectionFailedError as error:
        return read_agreements(institution), str(error)


def obstacles(institution: Institution, offer: Federation) -> list[str]:
    """Why this site would refuse every request under an agreement."""
    found = list(objections(institution.policy, offer, {}))
    try:
        check_offer(institution, offer)
    except ConfigError as error:
        found.insert(0, str(error))
    return found
