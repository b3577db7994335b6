"""The coordinator's own folder and machine: settings, certificate, ports, store, disk, clock, backbone, Flower."""

import ctypes
from datetime import UTC, datetime
from importlib.metadata import requires, version
from pathlib import Path

from cryptography import x509
from packaging.requirements import Requirement

from server.enrolment.authority import LOOPBACK_HOSTS
from server.enrolment.certificates import look, server_certificate
from server.home import ServerHome, ServerSettings
from server.service.listeners import listen, open_listeners
from server.store import SCHEMA_VERSION, store_version
from shared.doctor.door import check_health, check_tls, look_at_door
from shared.doctor.findings import Finding
from shared.enrolment.certificates import WARNING_DAYS
from shared.errors import BackboneError, ConfigError, ConnectionFailedError, StoreError, joined
from shared.federation import Federation
from shared.model.backbone import beside, fingerprint, locate
from shared.process.lock import holder

UNSYNCHRONISED = 5
"""TIME_ERROR of `ntp_gettime`."""


def check_hosts(home: ServerHome, settings: ServerSettings) -> Finding:
    """Whether the certificate names the hosts by which institutions reach this coordinator."""
    try:
        names = server_certificate(home).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ConfigError, x509.ExtensionNotFound) as error:
        return Finding("hosts", "error", f"The server certificate names no hosts ({error}).", _RENEW)
    named = {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}
    if missing := [host for host in settings.hosts if host not in named]:
        text = f"The server certificate lacks {joined(missing)} of hosts in {home.settings_file.name}."
        return Finding("hosts", "warning", text, "The next `collegium server up` issues one that has them.")
    if all(host in LOOPBACK_HOSTS for host in settings.hosts):
        advice = "Put the name or address by which other machines reach this one first in hosts."
        return Finding("hosts", "ok", "hosts are of this machine alone, as for a trial.", advice)
    return Finding("hosts", "ok", f"The server certificate names {joined(settings.hosts)}.")


def check_certificate(home: ServerHome) -> Finding:
    """How long the certificates of the server and its authority are good."""
    try:
        days = look(home)
    except ConfigError as error:
        return Finding("certificate", "error", str(error))
    if warnings := days.warnings():
        verdict = "error" if min(days.server, days.authority) < 0 else "warning"
        return Finding("certificate", "error" if verdict == "error" else "warning", " ".join(warnings))
    return Finding(
        "certificate",
        "ok",
        f"Good for {days.server} days, its authority for {days.authority}; warned of below {WARNING_DAYS}.",
    )


def check_ports(home: ServerHome, settings: ServerSettings) -> list[Finding]:
    """Whether the server that is up answers, or else whether its ports are free."""
    if holder(home.lock_file):
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.public_host, settings.public_host)
        door = look_at_door(f"{host}:{settings.public_port}", home.ca_certificate)
        return [check_health(door), check_tls(door)]
    try:
        for listener in open_listeners(settings):
            listener.close()
        if settings.enrolment_port:
            listen(settings.public_host, settings.enrolment_port, "enrolment_port").close()
    except ConnectionFailedError as error:
        return [Finding("ports", "error", str(error))]
    ports = [port for port in (settings.public_port, settings.operator_port, settings.enrolment_port) if port]
    return [Finding("ports", "ok", f"The server is not up, and its ports {joined(ports)} are free.")]


def check_store(home: ServerHome, settings: ServerSettings) -> Finding:
    """Whether the database opens, and which release made it; it is not changed."""
    url = settings.store_url or home.default_store_url
    try:
        found = store_version(url)
    except (ConfigError, StoreError) as error:
        return Finding("store", "error", str(error))
    if found == 0:
        return Finding("store", "ok", "There is no run yet: the store's tables are made when the server starts.")
    if found > SCHEMA_VERSION:
        text = f"The store is of version {found}, and this release reads up to {SCHEMA_VERSION}."
        return Finding("store", "error", text, "Install the release of Collegium that made it.")
    if found < SCHEMA_VERSION:
        text = f"The store is of version {found}; the next command that opens it makes it {SCHEMA_VERSION}."
        return Finding("store", "warning", text, "Keep a copy of it: earlier releases refuse it then.")
    return Finding("store", "ok", f"The store opens, of version {found}.")


def check_clock(latest: datetime | None) -> Finding:
    """Whether the clock has gone back, and whether the kernel says that it is kept right.

    Args:
        latest: The last time that the store knows.
    """
    now = datetime.now(UTC)
    if latest and latest > now:
        text = f"It is {now:%Y-%m-%d %H:%M:%S} UTC by this clock, before the store's last entry ({latest:%H:%M:%S})."
        return Finding("clock", "error", text, "Set the clock right: institutions' requests are refused by it.")
    kept = "is kept right by the system" if _is_synchronised() else "is not known to be kept right by the system"
    advice = "" if _is_synchronised() else "Institutions' clocks may differ from it by at most five minutes: use NTP."
    return Finding("clock", "ok", f"It is {now:%Y-%m-%d %H:%M:%S} UTC, a clock that {kept}.", advice)


def check_backbone(home: ServerHome, federation: Federation) -> Finding:
    """Whether the folder is there, a BERT, and the one that the agreement names."""
    try:
        found = fingerprint(locate(beside(federation.backbone.name, home.federation_file)))
    except BackboneError as error:
        return Finding("backbone", "error", str(error))
    if found != federation.backbone.sha256:
        text = (
            f"{federation.backbone.name} has the fingerprint {found[:12]}..., but the federation file names "
            f"{federation.backbone.sha256[:12]}..."
        )
        return Finding("backbone", "error", text, "Put the agreed files there, or propose the new fingerprint.")
    return Finding("backbone", "ok", f"{federation.backbone.name} has the agreed fingerprint {found[:12]}...")


def check_flower() -> Finding:
    """Whether the installed Flower is one that this release was tested with."""
    found = version("flwr")
    wanted = next(r for r in map(Requirement, requires("collegium") or ()) if r.name == "flwr" and not r.extras)
    if not wanted.specifier.contains(found):
        text = f"Flower is of version {found}, but this release works with {wanted.specifier}."
        return Finding("flower", "error", text, "Install Collegium again with its constraints.txt.")
    return Finding("flower", "ok", f"Flower is of version {found}.")


def private_paths(home: ServerHome) -> list[Path]:
    """What nobody else may open."""
    return [home.secrets, home.settings_file, *home.private]


_RENEW = "Run `collegium server rotate-certificate`."


def _is_synchronised() -> bool:
    try:
        return ctypes.CDLL(None).ntp_gettime(ctypes.create_string_buffer(256)) not in (-1, UNSYNCHRONISED)
    except AttributeError:  # another C library than glibc
        return False
