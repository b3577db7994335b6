"""One node key is one text, and only its owner signs with it."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from shared import nodekeys
from simulations.nodekeys import node_key, public_keys

LINE = public_keys(["bank"])["bank"]


def test_a_key_is_one_text() -> None:
    for text in (LINE, f"{LINE}\n", f"{LINE} somebody@somewhere"):
        assert nodekeys.line_of(nodekeys.read_line(text)) == LINE
    assert nodekeys.fingerprint(LINE).startswith("SHA256:")
    assert nodekeys.fingerprint(LINE) != nodekeys.fingerprint(public_keys(["clinic"])["clinic"])


def _openssh(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> str:
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ecdsa-sha2-nistp384",
        LINE[:-10],
        f"{LINE}\n{LINE}",
        LINE + "x" * 1000,
        _openssh(ec.generate_private_key(ec.SECP256R1()).public_key()),
        _openssh(ed25519.Ed25519PrivateKey.generate().public_key()),
    ],
    ids=["empty", "no key", "cut", "two lines", "too long", "another curve", "another kind"],
)
def test_what_is_no_node_key(text: str) -> None:
    with pytest.raises(ValueError, match="expected a public key on one line"):
        nodekeys.read_line(text)


def test_only_the_owner_signs() -> None:
    signature = nodekeys.sign(node_key("bank"), b"message")
    assert nodekeys.is_signed(LINE, b"message", signature)
    assert not nodekeys.is_signed(LINE, b"another", signature)
    assert not nodekeys.is_signed(public_keys(["clinic"])["clinic"], b"message", signature)
    for malformed in ("", "zz", "é", "00" * 50, signature[:-2]):
        assert not nodekeys.is_signed(LINE, b"message", malformed)
