"""The operator's side of coming and going: invitations are written, keys revoked, names taken off the agreement."""

import re
import time
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from server.agreement import latest_text, naming, propose_text
from server.enrolment.certificates import authority_of
from server.enrolment.invitations import Invitations
from server.enrolment.keys import agreement_line
from server.home import ServerHome, read_settings
from server.service.operator import Node, OperatorClient
from shared.config import parse, parse_toml
from shared.enrolment.certificates import fingerprint
from shared.enrolment.invitation import Invitation, write_invitation
from shared.errors import ConfigError, EnrolmentError, listed
from shared.federation import Federation


def invite(home: ServerHome, name: str, path: Path, *, days: float) -> Invitation:
    """Write an invitation; one that the institution had before is good no more.

    Args:
        home: The coordinator's folder, whose server is up.
        name: An institution of the federation file that is not enrolled.
        path: The file to make.
        days: How long it is good.

    Raises:
        ConfigError: There is no enrolment door.
        EnrolmentError: The name is unknown or enrolled, or the file is there already.
    """
    address = read_settings(home).enrolment_address
    if address is None:
        raise ConfigError(
            f"Expected enrolment_port in {home.settings_file}, the port of the door for invitations, but there is "
            "none; add one, for example enrolment_port = 8445, and restart `collegium server up`."
        )
    federation, _ = naming(home, name)
    with OperatorClient(home) as operator:
        for node in operator.nodes():
            if node.name == name:
                raise EnrolmentError(
                    f"Expected an institution that is not enrolled yet, but {name!r} is, with key {node.fingerprint}; "
                    f"`collegium server revoke {name}` ends that, and a new key comes by `collegium client rotate-key`."
                )
    authority = fingerprint(authority_of(home))
    if path.exists():
        raise EnrolmentError(f"Expected no file at {path}, but there is one; name another file with --out.")
    expires = (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
    invitation = Invitation(
        version=1,
        federation=federation.name,
        name=name,
        address=address,
        authority=authority,
        code=Invitations(home.enrolment_database).invite(name, seconds=expires.timestamp() - time.time()),
        expires=expires,
    )
    write_invitation(invitation, path)
    return invitation


def revoke(home: ServerHome, name: str) -> Node:
    """Cut an institution off: its key is refused from now on and for ever, and what it was asked is not waited for.

    Raises:
        EnrolmentError: No such institution is enrolled.
    """
    invitations = Invitations(home.enrolment_database)
    invitations.withdraw(name)
    with OperatorClient(home) as operator:
        for node in operator.nodes():
            if node.name == name:
                invitations.note(name, agreement_line(node.public_key), "revoked")
                operator.unregister_node(node.node_id)
                return node
    raise EnrolmentError(
        f"Expected an institution that is enrolled, but {name!r} is not; an invitation that it had is good no more, "
        "and `collegium server status` lists those who are."
    )


def remove(home: ServerHome, name: str) -> tuple[str, list[str]]:
    """Offer the agreement without an institution: what is offered already, if something is, else the one in force.

    Comments stay: the lines that name the institution are changed, and nothing else.

    Returns:
        The digest of what is offered, and how it differs from the agreement in force.

    Raises:
        EnrolmentError: The agreement does not name it.
        ConfigError: Without it there is no agreement that can work, or the file is written so that it takes a human.
    """
    text = latest_text(home)
    before = parse_toml(Federation, text, where="the federation file")
    if name not in before.rounds.institutions:
        raise EnrolmentError(
            f"Expected a name among {listed(before.rounds.institutions)}, as rounds.institutions of the latest "
            f"federation file has them, but it is {name!r}; correct it."
        )
    changed = _without(text, name, len(before.rounds.institutions) - 1, before.rounds.quorum)
    try:
        values = tomllib.loads(changed)
    except tomllib.TOMLDecodeError as error:
        raise _by_hand(home, name, str(error)) from None
    parse(Federation, values, where=f"the federation file without {name}")
    if values != _expected(tomllib.loads(text), name):
        raise _by_hand(home, name, "its lists are written in another way")
    return propose_text(home, changed)


def _without(text: str, name: str, left: int, quorum: int) -> str:
    """The text of a federation file without a name."""
    quoted = rf"(?:\"{re.escape(name)}\"|'{re.escape(name)}')"

    def shorter(found: re.Match[str]) -> str:
        inside = re.sub(rf"\s*{quoted}\s*,", "", found[2], count=1)
        if inside == found[2]:
            inside = re.sub(rf",?\s*{quoted}", "", found[2], count=1)
        return found[1] + inside.lstrip(" ") + found[3]

    text = re.sub(r"(?m)^(\s*institutions\s*=\s*\[)([^\]]*)(\])", shorter, text, count=1)
    if quorum > left:
        text = re.sub(r"(?m)^(\s*quorum\s*=\s*)\d+", rf"\g<1>{left}", text, count=1)
    return re.sub(rf"(?m)^\s*(?:{quoted}|{re.escape(name)})\s*=\s*\"ecdsa-[^\n]*\n?", "", text)


def _expected(values: dict[str, Any], name: str) -> dict[str, Any]:
    """What the file should say then."""
    rounds = values["rounds"]
    rounds["institutions"] = [each for each in rounds["institutions"] if each != name]
    if rounds.get("quorum", 0) > len(rounds["institutions"]):
        rounds["quorum"] = len(rounds["institutions"])
    values.get("secure_aggregation", {}).get("keys", {}).pop(name, None)
    return values


def _by_hand(home: ServerHome, name: str, why: str) -> ConfigError:
    return ConfigError(
        f"Expected to take {name!r} off {home.federation_file} without touching anything else, but that is not "
        f"possible ({why}); take it out of rounds.institutions and [secure_aggregation.keys] by hand, in a copy for "
        "`collegium server propose`."
    )
