import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from flwr.cli.supernode.register import try_load_public_key

from server.enrolment.keys import agreement_line, fingerprint, read_public_key
from shared.errors import EnrolmentError
from shared.flower.crypto import public_key_to_bytes

OpenSsh = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def test_a_good_key_is_read_as_flower_reads_it(key: ec.EllipticCurvePrivateKey, tmp_path: Path) -> None:
    path = tmp_path / "hospital.pub"
    path.write_bytes(key.public_key().public_bytes(*OpenSsh) + b" hospital@example\n")
    assert read_public_key(path) == public_key_to_bytes(key.public_key()) == try_load_public_key(path)
    assert agreement_line(read_public_key(path)).encode() == key.public_key().public_bytes(*OpenSsh)


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL", "OpenSSH"])
def test_a_private_key_is_refused_and_not_printed(key: ec.EllipticCurvePrivateKey, tmp_path: Path, form: str) -> None:
    path = tmp_path / "hospital"
    content = key.private_bytes(
        serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form), serialization.NoEncryption()
    )
    path.write_bytes(content)
    with pytest.raises(EnrolmentError, match="holds a private key") as caught:
        read_public_key(path)
    assert content.splitlines()[1].decode() not in str(caught.value)


def test_other_kinds_of_keys_are_named(tmp_path: Path) -> None:
    path = tmp_path / "key.pub"
    others: dict[str, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey] = {
        "ECDSA key on curve secp256r1": ec.generate_private_key(ec.SECP256R1()).public_key(),
        "Ed25519 key": ed25519.Ed25519PrivateKey.generate().public_key(),
        "RSA key": rsa.generate_private_key(65537, 2048).public_key(),
    }
    for kind, other in others.items():
        path.write_bytes(other.public_bytes(*OpenSsh))
        with pytest.raises(EnrolmentError, match=kind):
            read_public_key(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"ecdsa-sha2-nistp384 AAAA", b"\xff\xfe\x00", b"x" * 100_000])
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pub"
    path.write_bytes(content)
    with pytest.raises(EnrolmentError, match="OpenSSH public key"):
        read_public_key(path)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnrolmentError, match=r"absent\.pub.*No such file"):
        read_public_key(tmp_path / "absent.pub")


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen to compare with")
def test_the_fingerprint_is_that_of_ssh_keygen(key: ec.EllipticCurvePrivateKey, tmp_path: Path) -> None:
    path = tmp_path / "key.pub"
    path.write_bytes(key.public_key().public_bytes(*OpenSsh))
    printed = subprocess.run(["ssh-keygen", "-lf", path], capture_output=True, text=True, check=True).stdout
    assert printed.split()[1] == fingerprint(read_public_key(path))
