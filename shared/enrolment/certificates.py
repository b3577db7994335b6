"""What both sides read in the coordinator's certificates: whose they are, and how long they are good."""

import math
from collections.abc import Iterable
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization

WARNING_DAYS = 30
"""A certificate with fewer days left is spoken of."""


def read_certificates(pem: bytes) -> list[x509.Certificate]:
    """The certificates of a PEM file, in its order; ValueError if there is none."""
    return x509.load_pem_x509_certificates(pem)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate, 64 hexadecimal digits."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def pem_of(certificate: x509.Certificate) -> bytes:
    """A certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def days_left(certificate: x509.Certificate, now: datetime | None = None) -> int:
    """Whole days until a certificate ends, negative if it has ended."""
    left = certificate.not_valid_after_utc - (now or datetime.now(UTC))
    return math.floor(left.total_seconds() / 86_400)


def authority_days(certificates: Iterable[x509.Certificate]) -> int:
    """Whole days until the last one of some authorities ends: until then one of them may do."""
    return max(map(days_left, certificates))


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether an authority has signed a certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def ending(what: str, days: int) -> str:
    """That something ends in some days, or has ended."""
    when = f"ends in {days} days" if days >= 0 else f"has ended {-days} days ago"
    return f"{what} {when}"
