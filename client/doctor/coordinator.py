"""What lies between this site and its coordinator: name, proxy, TLS, clocks, and whether the site's key is enrolled."""

import ssl
from base64 import b64encode

import httpx

from client.institution import Institution
from client.keys import fingerprint, read_private_key
from client.service.endings import NOT_ENROLLED, REVOKED
from shared.doctor.door import SECONDS, Door, check_clock, check_health, check_name, check_tls, look_at_door
from shared.doctor.findings import Finding
from shared.enrolment.certificates import WARNING_DAYS, authority_days, read_certificates
from shared.errors import CollegiumError
from shared.flower.constants import FLEET_HTTP_PUBLIC_KEY_HEADER
from shared.flower.crypto import public_key_to_bytes
from shared.process.proxies import proxy_towards
from shared.signing import HEADER, sign_request

ASKED = "/v1/fleet/activate-node"
"""Asked with an empty body, it changes nothing: whoever is enrolled is told that this is not allowed."""


def look_at_coordinator(institution: Institution) -> list[Finding]:
    """All findings about the way to the coordinator."""
    name = check_name(institution.server.address)
    door = look_at_door(institution.server.address, institution.server.ca)
    return [
        name,
        check_health(door),
        check_tls(door),
        check_authority(institution),
        check_clock(door),
        check_enrolled(institution, door),
    ]


def check_authority(institution: Institution) -> Finding:
    """How long the certificate of the coordinator's authority is good."""
    try:
        days = authority_days(read_certificates(institution.server.ca.read_bytes()))
    except (OSError, ValueError) as error:
        return Finding("authority", "warning", f"{institution.server.ca} has no certificate ({error}).", "See `start`.")
    if days < WARNING_DAYS:
        return Finding(
            "authority",
            "error" if days < 0 else "warning",
            f"The coordinator's CA certificate {'has ended' if days < 0 else f'ends in {days} days'}.",
            "Ask the coordinator for its next ca.crt.",
        )
    return Finding("authority", "ok", f"The coordinator's CA certificate is good for {days} days.")


def check_enrolled(institution: Institution, door: Door) -> Finding:
    """Whether the coordinator knows the site's key, asked by a signed request to its Fleet interface."""
    key_file = institution.identity.key
    if door.status not in (httpx.codes.OK, httpx.codes.SERVICE_UNAVAILABLE):  # which is of rounds, not of the door
        return Finding("enrolled", "warning", "Whether the key is enrolled is not known.", "See `door`.")
    try:
        key = read_private_key(key_file)
        proxied = proxy_towards(institution.server.address) is not None
    except CollegiumError as error:
        return Finding("enrolled", "warning", f"Whether the key is enrolled is not known: {error}")
    headers = {
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public_key_to_bytes(key.public_key())).decode("ascii"),
        HEADER: sign_request(key, "POST", ASKED, b""),
        "content-type": "application/protobuf",
    }
    trusted = ssl.create_default_context(cafile=str(institution.server.ca))
    try:
        with httpx.Client(verify=trusted, timeout=SECONDS, trust_env=proxied) as client:
            answer = client.post(f"https://{institution.server.address}{ASKED}", content=b"", headers=headers)
    except httpx.HTTPError as error:
        return Finding("enrolled", "warning", f"Whether the key is enrolled is not known ({error}).", "Try again.")
    named = f"the key {key_file} ({fingerprint(key.public_key())})"
    if REVOKED in answer.text:
        advice = "It is not enrolled again: ask for an invitation, and make a new key."
        return Finding("enrolled", "error", f"The coordinator has revoked {named}.", advice)
    if NOT_ENROLLED in answer.text:
        advice = f"Send it {key_file.with_suffix('.pub')}, or correct identity.key."
        return Finding("enrolled", "error", f"The coordinator does not know {named}.", advice)
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return Finding("enrolled", "error", "The coordinator takes no request signed here.", "See `clock`.")
    if answer.status_code != httpx.codes.FORBIDDEN:
        said = f"The coordinator answers {answer.status_code} to a signed request."
        return Finding("enrolled", "warning", said, "Try again; if it stays so, tell the coordinator.")
    return Finding("enrolled", "ok", f"The coordinator knows {named}.")
