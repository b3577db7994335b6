"""The coordinator's own certificate authority: one root, one server certificate.

Institutions are given the root certificate alone. It proves to them that they talk to their coordinator; who they are
is proved by their own keys (see `keys.py`). Profiles follow RFC 5280, sections 4.2.1 and 6.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650
SERVER_DAYS = 825
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True, repr=False)
class Issued:
    """A certificate and its private key, both PEM; never printed."""

    certificate: bytes
    key: bytes


def create_authority(name: str = "Collegium coordinator") -> Issued:
    """Create a self-signed root: EC P-384, ten years, may sign certificates but no further authority."""
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _name(f"{name} CA")
    certificate = (
        _builder(subject, subject, key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    return _pem(certificate, key)


def issue_server_certificate(authority: Issued, hosts: Sequence[str]) -> Issued:
    """Issue the certificate that both doors show.

    Args:
        authority: What `create_authority` returned.
        hosts: DNS names and IP addresses under which institutions reach the coordinator; `localhost`, `127.0.0.1`
            and `::1` are always added, because the coordinator's own commands use them.

    Returns:
        A certificate for TLS servers, valid for 825 days, and its new EC P-384 key.
    """
    root = x509.load_pem_x509_certificate(authority.certificate)
    root_key = serialization.load_pem_private_key(authority.key, password=None)
    assert isinstance(root_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP384R1())
    names = list(dict.fromkeys([*hosts, *LOOPBACK_HOSTS]))
    certificate = (
        _builder(_name(names[0]), root.subject, key.public_key(), SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA384())
    )
    return _pem(certificate, key)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Issued:
    return Issued(
        certificate=certificate.public_bytes(serialization.Encoding.PEM),
        key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
