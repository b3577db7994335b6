import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from server.enrolment.authority import Issued, create_authority, issue_server_certificate


@pytest.fixture(scope="module")
def authority() -> Issued:
    return create_authority()


def handshake(authority: Issued, server: Issued, folder: Path, hostname: str) -> str | None:
    """A real TLS handshake over a socket pair, as strict as Python 3.13; the verified common name."""
    (folder / "chain.pem").write_bytes(server.certificate + server.key)
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.load_cert_chain(folder / "chain.pem")
    trusting = ssl.create_default_context(cadata=authority.certificate.decode())
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    near, far = socket.socketpair()

    def answer() -> None:
        try:
            with listening.wrap_socket(far, server_side=True) as connection:
                connection.recv(1)
        except OSError:
            far.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with trusting.wrap_socket(near, server_hostname=hostname) as connection:
            certificate = connection.getpeercert()
            assert certificate is not None
            connection.send(b"x")
            return str(certificate["subject"])
    finally:
        near.close()
        thread.join()


@pytest.mark.parametrize("hostname", ["fl.example.org", "192.0.2.7", "localhost", "127.0.0.1", "::1"])
def test_the_chain_is_verified_for_every_name(authority: Issued, tmp_path: Path, hostname: str) -> None:
    server = issue_server_certificate(authority, ["fl.example.org", "192.0.2.7"])
    assert "fl.example.org" in str(handshake(authority, server, tmp_path, hostname))


def test_other_names_and_other_authorities_are_refused(authority: Issued, tmp_path: Path) -> None:
    server = issue_server_certificate(authority, ["localhost"])
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(authority, server, tmp_path, "elsewhere.example.org")
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        handshake(create_authority(), server, tmp_path, "localhost")


def test_profiles(authority: Issued) -> None:
    root = x509.load_pem_x509_certificate(authority.certificate)
    server = x509.load_pem_x509_certificate(issue_server_certificate(authority, ["localhost"]).certificate)
    for certificate in (root, server):
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert isinstance(key.curve, ec.SECP384R1)
    basic = root.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage)
    assert basic.critical
    assert basic.value.ca
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert list(server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH
    ]
    assert (root.not_valid_after_utc - root.not_valid_before_utc).days == 3650
    assert (server.not_valid_after_utc - server.not_valid_before_utc).days == 825


def test_keys_do_not_print(authority: Issued) -> None:
    assert "PRIVATE" not in repr(authority)
