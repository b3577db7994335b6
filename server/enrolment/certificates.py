"""The coordinator's certificates over time: renewed before they end or when `hosts` changes, and another authority.

Institutions trust the authority alone, so that a new server certificate needs nothing of them.
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from server.enrolment.authority import LOOPBACK_HOSTS, Issued, create_authority, issue_server_certificate
from server.home import ServerHome, ServerSettings
from shared.enrolment.certificates import (
    WARNING_DAYS,
    authority_days,
    days_left,
    ending,
    is_issued_by,
    pem_of,
    read_certificates,
)
from shared.errors import ConfigError
from shared.process.files import sync_folder, write_new, write_synced


@dataclass(frozen=True)
class DaysLeft:
    """Whole days until certificates end; negative if they have ended."""

    server: int
    authority: int

    def warnings(self) -> list[str]:
        """What to do about those that end within WARNING_DAYS."""
        found = []
        if self.server < WARNING_DAYS:
            text = ending("The server certificate", self.server)
            found.append(f"{text}; `collegium server rotate-certificate` makes another.")
        if self.authority < WARNING_DAYS:
            text = ending("The certificate of this coordinator's authority", self.authority)
            found.append(
                f"{text}, and with it every institution's trust; `collegium server rotate-authority` begins a new one."
            )
        return found


def look(home: ServerHome) -> DaysLeft:
    """How long the folder's certificates are good."""
    return DaysLeft(days_left(server_certificate(home)), authority_days(_certificates(home.ca_certificate)))


def server_certificate(home: ServerHome) -> x509.Certificate:
    """What the doors show."""
    return _certificates(home.server_certificate)[0]


def authority_of(home: ServerHome) -> x509.Certificate:
    """The certificate of `public/ca.crt` that has issued the server certificate.

    Raises:
        ConfigError: None of them has.
    """
    shown = server_certificate(home)
    for certificate in _certificates(home.ca_certificate):
        if is_issued_by(shown, certificate):
            return certificate
    raise ConfigError(
        f"Expected {home.server_certificate} to be issued by the authority of {home.ca_certificate}, but it is not; "
        "run `collegium server rotate-certificate`, or restore both from your copy of the folder."
    )


def keep_good(home: ServerHome, settings: ServerSettings) -> str | None:
    """Make a new server certificate if the present one ends soon or names other hosts; why, if so.

    Also brings to its end what an interrupted `renew` has begun.
    """
    complete(home)
    names = _names(server_certificate(home))
    wanted = {*settings.hosts, *LOOPBACK_HOSTS}
    left = days_left(server_certificate(home))
    if names != wanted:
        why = f"hosts of {home.settings_file} has changed"
    elif left < WARNING_DAYS:
        why = ending("the last one", left)
    else:
        return None
    renew(home, settings)
    return f"A new server certificate was issued, since {why}; institutions need nothing new."


def renew(home: ServerHome, settings: ServerSettings) -> None:
    """Issue a new server certificate with a new key, and put both in the place of the old ones.

    Two files take their places one after the other. Both are written beside them before; once the certificate is
    there, `complete` can always do the rest, and doors read them anew when the certificate has changed.
    """
    complete(home)
    key, certificate = _next_pair(home)
    issued = issue_server_certificate(signing_authority(home), settings.hosts)
    key.unlink(missing_ok=True)
    write_new(key, issued.key, 0o600)
    write_new(certificate, issued.certificate, 0o600)
    sync_folder(home.secrets)
    complete(home)


def complete(home: ServerHome) -> None:
    """Finish a renewal that was interrupted."""
    key, certificate = _next_pair(home)
    if not certificate.exists():
        key.unlink(missing_ok=True)
        return
    if not _is_whole(certificate):  # it was being written
        certificate.unlink()
        key.unlink(missing_ok=True)
        return
    if key.exists():
        key.replace(home.server_key)
        sync_folder(home.secrets)
    certificate.replace(home.server_certificate)
    sync_folder(home.secrets)


def begin_authority(home: ServerHome) -> None:
    """Make the next authority and add it to `public/ca.crt`, which institutions are to get; doors show the old one's.

    Done before, it changes nothing.
    """
    if len(_certificates(home.ca_certificate)) > 1:
        return
    following = create_authority()
    home.next_ca_key.unlink(missing_ok=True)  # of an attempt that did not get as far as the certificate
    write_new(home.next_ca_key, following.key, 0o600)
    write_synced(home.ca_certificate, _read(home.ca_certificate) + following.certificate)


def finish_authority(home: ServerHome, settings: ServerSettings) -> None:
    """Have the doors show a certificate of the next authority, and forget the old one. Each step may come again.

    The server must be down: its own processes trust what stood in ca.crt when they were started.

    Raises:
        ConfigError: No next authority was begun.
    """
    certificates = _certificates(home.ca_certificate)
    if len(certificates) < 2:
        raise ConfigError(
            f"Expected two authorities in {home.ca_certificate}, but there is one; begin with `collegium server "
            "rotate-authority`, and give every institution the new ca.crt before you finish."
        )
    if home.next_ca_key.exists():
        home.next_ca_key.replace(home.ca_key)
        sync_folder(home.secrets)
    renew(home, settings)
    write_synced(home.ca_certificate, pem_of(authority_of(home)))


def signing_authority(home: ServerHome) -> Issued:
    """The authority whose key lies in the folder, as `issue_server_certificate` takes it.

    Raises:
        ConfigError: No certificate belongs to the key.
    """
    key = serialization.load_pem_private_key(_read(home.ca_key), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    for certificate in _certificates(home.ca_certificate):
        if certificate.public_key() == key.public_key():
            return Issued(pem_of(certificate), _read(home.ca_key))
    raise ConfigError(
        f"Expected {home.ca_key} to be the key of a certificate in {home.ca_certificate}, but it is of none; "
        "restore both from your copy of the folder."
    )


def _next_pair(home: ServerHome) -> tuple[Path, Path]:
    return home.secrets / "next-server.key", home.secrets / "next-server.crt"


def _is_whole(path: Path) -> bool:
    try:
        return bool(read_certificates(path.read_bytes()))
    except ValueError:
        return False


def _names(certificate: x509.Certificate) -> set[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))}


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return read_certificates(_read(path))
    except ValueError:
        raise ConfigError(
            f"Expected a certificate in {path}, but its content is something else; restore it from your copy of the "
            "folder."
        ) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"Expected a certificate or its key in {path}, but the file cannot be read ({error.strerror}); "
            "restore it from your copy of the folder."
        ) from None
