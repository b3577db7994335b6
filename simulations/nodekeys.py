"""Node keys of institutions that exist in a simulation only: functions of their names, and so no secrets."""

import hashlib
from collections.abc import Iterable

from cryptography.hazmat.primitives.asymmetric import ec

from shared.nodekeys import line_of

PRIVATE_BYTES = 47
"""One less than a number on P-384 takes, so that every hash is a private key."""


def node_key(name: str) -> ec.EllipticCurvePrivateKey:
    """What a simulated institution signs with."""
    number = hashlib.sha384(f"simulated institution {name}".encode()).digest()[:PRIVATE_BYTES]
    return ec.derive_private_key(int.from_bytes(number, "big"), ec.SECP384R1())


def public_keys(names: Iterable[str]) -> dict[str, str]:
    """`[secure_aggregation.keys]` of a simulated federation."""
    return {name: line_of(node_key(name).public_key()) for name in names}
