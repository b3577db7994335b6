"""What a new key and a good-bye need of institution.toml; the rest of it may still be unfinished."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ConfigDict

from client.institution import Identity, Runtime, Server, with_absolute_paths
from client.keys import read_private_key
from shared.config import Model, Name, parse, read_toml
from shared.enrolment.certificates import fingerprint, read_certificates
from shared.enrolment.messages import Welcome
from shared.errors import ConfigError, EnrolmentError


class Membership(Model):
    """Who the institution is, and where its coordinator."""

    model_config = ConfigDict(extra="ignore")

    name: Name
    federation: Path = Path("federation.toml")
    server: Server = Server()
    identity: Identity = Identity()
    runtime: Runtime = Runtime()

    @property
    def door(self) -> str:
        """`host:port` of the enrolment door; ConfigError if the file does not say."""
        if self.server.enrolment is None:
            raise ConfigError(
                "Expected server.enrolment in the institution file, the address of the coordinator's enrolment door, "
                "but it is not there; ask the coordinator for HOST:PORT (enrolment_port in its server.toml)."
            )
        return self.server.enrolment

    def key(self) -> ec.EllipticCurvePrivateKey:
        """The present private key."""
        return read_private_key(self.identity.key)

    def trusted(self) -> bytes:
        """The coordinator's CA certificates; EnrolmentError if there are none."""
        try:
            content = self.server.ca.read_bytes()
            read_certificates(content)
        except (OSError, ValueError):
            raise EnrolmentError(
                f"Expected the coordinator's CA certificate (PEM) in {self.server.ca}, but it cannot be read; get "
                "ca.crt from the coordinator, or correct server.ca in the institution file."
            ) from None
        return content


def load_membership(path: Path) -> Membership:
    """Read it; ConfigError names every wrong key of these tables."""
    return with_absolute_paths(parse(Membership, read_toml(path), where=str(path)), path.resolve().parent)


def known_authority(welcome: Welcome, trusted: bytes) -> str:
    """Fingerprint of the authority by which the coordinator is known here; EnrolmentError if it is none of them."""
    known = {fingerprint(each) for each in read_certificates(trusted)}
    shown = fingerprint(read_certificates(welcome.authority.encode())[0])
    if shown not in known:
        raise EnrolmentError(
            "Expected a coordinator whose authority this site trusts, but it names another one; get its ca.crt."
        )
    return shown
