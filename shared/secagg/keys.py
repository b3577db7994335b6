"""The two key pairs of an institution in one round, and the secrets that two institutions agree on."""

from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.errors import ProtocolError

CURVE = ec.SECP256R1()
SECRET_BYTES = 32


@dataclass(frozen=True)
class PublicKeys:
    """What everybody may know of an institution's keys of one round: compressed points as lower-case hexadecimal."""

    sealing: str
    masking: str


@dataclass(frozen=True)
class Keys:
    """An institution's two key pairs of one round."""

    sealing: ec.EllipticCurvePrivateKey = field(repr=False)
    masking: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def public(self) -> PublicKeys:
        """The halves that are announced."""
        return PublicKeys(public_text(self.sealing), public_text(self.masking))


def make_keys() -> Keys:
    """Two fresh key pairs."""
    return Keys(ec.generate_private_key(CURVE), ec.generate_private_key(CURVE))


def public_text(key: ec.EllipticCurvePrivateKey) -> str:
    """The public half of a key, in the one form that `point` takes."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint).hex()


def point(text: str) -> ec.EllipticCurvePublicKey:
    """The public key that a text is of. Raises ProtocolError unless it is a compressed point in lower-case letters."""
    wrong = ProtocolError("Expected a public key on P-256 as a compressed point, but something else came.")
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(CURVE, bytes.fromhex(text))
    except ValueError:
        raise wrong from None
    if key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint).hex() != text:
        raise wrong
    return key


def agree(private: ec.EllipticCurvePrivateKey, public: str, *, view: bytes, use: str) -> bytes:
    """32 bytes that the owners of two keys have in common, as long as both saw the same round.

    Args:
        private: Of the one.
        public: Of the other.
        view: What this side saw of the round (`shared.secagg.view`): another view gives unrelated bytes.
        use: What the bytes are for, with the names of both.
    """
    return derive(private.exchange(ec.ECDH(), point(public)), view=view, use=use)


def derive(secret: bytes, *, view: bytes, use: str) -> bytes:
    """32 bytes from a secret, for one use in one view of a round: HKDF (RFC 5869)."""
    return HKDF(hashes.SHA256(), SECRET_BYTES, salt=view, info=f"collegium secure aggregation: {use}".encode()).derive(
        secret
    )
