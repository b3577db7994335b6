"""At the enrolment door: a used or guessed invitation, somebody in between, replayed requests, and a flood of tries."""

import contextlib
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import tomli_w
from cryptography.hazmat.primitives.asymmetric import ec

from client.enrolment.channel import enrolment_door
from client.enrolment.joining import join
from server.enrolment.authority import create_authority, issue_server_certificate
from server.enrolment.certificates import authority_of
from server.enrolment.door import open_door
from server.enrolment.invitations import Invitations
from server.enrolment.members import invite, revoke
from server.enrolment.tries import AT_ONCE, Tries
from server.home import ServerHome, read_settings
from server.service.operator import OperatorClient
from shared.enrolment import statements
from shared.enrolment.certificates import fingerprint
from shared.enrolment.invitation import Invitation, read_invitation
from shared.enrolment.messages import SERVICE, Done, Greet, Join, Joined, Leave, Rotate, Welcome, pack, unpack
from shared.errors import CollegiumError
from shared.nodekeys import fingerprint as key_fingerprint
from shared.nodekeys import line_of, sign
from simulations.attacks import Attack, Outcome
from simulations.attacks.coordinator import forked, new_home
from simulations.attacks.stage import tiny_federation, write_tiny_bert
from simulations.demo import free_ports

INSTITUTIONS = ("hospital", "bank", "court")
GUESSES = 100
FLOOD = 400
MANY = 100_000


@dataclass
class Key:
    """A key of the attacker's, or of an institution that plays along."""

    private: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))

    @property
    def line(self) -> str:
        """Its public half."""
        return line_of(self.private.public_key())


@dataclass
class Coordinator:
    """A coordinator that runs, with its enrolment door."""

    home: ServerHome

    @property
    def authority(self) -> str:
        """Fingerprint of its CA certificate."""
        return fingerprint(authority_of(self.home))

    @property
    def address(self) -> str:
        """Of the enrolment door."""
        return str(read_settings(self.home).enrolment_address)

    def invite(self, name: str, path: Path) -> Invitation:
        """An invitation."""
        return invite(self.home, name, path, days=1)

    def enrolled(self) -> dict[str, str]:
        """Fingerprints of enrolled keys, by name."""
        with OperatorClient(self.home) as operator:
            return {node.name: node.fingerprint for node in operator.nodes()}

    def greet(self) -> Welcome:
        """The first words."""
        with enrolment_door(self.address, self.home.ca_certificate.read_bytes()) as call:
            welcome: Welcome = call("Greet", Greet(), Welcome)
            return welcome

    def send(self, method: str, request: Any, kind: Any = Done) -> bool:
        """Whether a request was granted."""
        with enrolment_door(self.address, self.home.ca_certificate.read_bytes()) as call:
            try:
                call(method, request, kind)
            except CollegiumError:
                return False
            return True

    def joining(self, key: Key, *, code: str, name: str) -> Join:
        """A request to join that its key has signed."""
        nonce = self.greet().nonce
        signed = statements.joining(authority=self.authority, nonce=nonce, code=code, name=name, public_key=key.line)
        return Join(name=name, code=code, public_key=key.line, nonce=nonce, proof=sign(key.private, signed))

    def rotation(self, name: str, old: Key, new: Key, *, old_line: str | None = None) -> Rotate:
        """A request for another key that both have signed, whatever `old_line` it names."""
        nonce, line = self.greet().nonce, old_line or old.line
        signed = statements.rotation(authority=self.authority, nonce=nonce, name=name, old=line, new=new.line)
        return Rotate(
            name=name,
            old=line,
            new=new.line,
            nonce=nonce,
            old_signature=sign(old.private, signed),
            new_signature=sign(new.private, signed),
        )

    def goodbye(self, name: str, key: Key, *, line: str | None = None) -> Leave:
        """A good-bye that a key has signed, in the name of whichever."""
        nonce, named = self.greet().nonce, line or key.line
        signed = statements.leaving(authority=self.authority, nonce=nonce, name=name, public_key=named)
        return Leave(name=name, public_key=named, nonce=nonce, signature=sign(key.private, signed))


@contextlib.contextmanager
def welcoming(folder: Path, tries: Tries | None = None) -> Iterator[Coordinator]:
    """A coordinator with an enrolment door, over a tiny BERT."""
    backbone = folder / "bert"
    backbone.mkdir(parents=True)
    federation = tiny_federation(write_tiny_bert(backbone), INSTITUTIONS)
    text = tomli_w.dumps(federation.model_dump(mode="json", exclude_none=True))
    home = new_home(folder / "coordinator", text)
    with forked(home), door(home, tries):
        yield Coordinator(home)


@contextlib.contextmanager
def door(home: ServerHome, tries: Tries | None = None) -> Iterator[None]:
    """The enrolment door of a folder, in this process."""
    server, _ = open_door(home, read_settings(home), tries or Tries(MANY, MANY))
    server.start()
    try:
        yield
    finally:
        server.stop(0).wait()


def _seen_after_use(folder: Path) -> Outcome:
    """A used invitation with another key, for another name, after its holder was revoked; expired ones; guesses."""
    with welcoming(folder) as coordinator:
        used = coordinator.invite("hospital", folder / "hospital.invitation")
        join(folder / "hospital.invitation", folder / "hospital")
        tries = [
            coordinator.joining(Key(), code=used.code, name="hospital"),
            coordinator.joining(Key(), code=used.code, name="bank"),
        ]
        granted = [coordinator.send("Join", each, Joined) for each in tries]
        revoke(coordinator.home, "hospital")
        granted.append(coordinator.send("Join", coordinator.joining(Key(), code=used.code, name="hospital"), Joined))
        old = Invitations(coordinator.home.enrolment_database).invite("court", seconds=-1.0)
        granted.append(coordinator.send("Join", coordinator.joining(Key(), code=old, name="court"), Joined))
        replaced = coordinator.invite("bank", folder / "bank.invitation").code
        coordinator.invite("bank", folder / "bank-2.invitation")
        granted.append(coordinator.send("Join", coordinator.joining(Key(), code=replaced, name="bank"), Joined))
        for _ in range(GUESSES):
            guess = coordinator.joining(Key(), code=secrets.token_urlsafe(32), name="bank")
            granted.append(coordinator.send("Join", guess, Joined))
        files = [path for path in coordinator.home.state.iterdir() if path.is_file()]
        held = sum(used.code.encode() in path.read_bytes() for path in files)
    return Outcome(len(granted) + 1, sum(granted) + held, f"{held} files of the coordinator hold a code")


def _in_between(folder: Path) -> Outcome:
    """A door with its own CA in the way, which passes on the first words; and an invitation with its fingerprint."""
    with welcoming(folder) as coordinator:
        authority = create_authority("Somebody else")
        heard: list[Any] = []
        with _impostor(coordinator, authority, heard) as address:
            genuine = coordinator.invite("hospital", folder / "genuine")
            changed = genuine.model_dump(mode="json") | {"address": address}
            results = [_try_to_join(folder, "rerouted", changed)]
            results.append(_try_to_join(folder, "lengthened", changed | {"expires": "2099-01-01T00:00:00Z"}))
            other = fingerprint(authority_of(coordinator.home))[::-1]
            results.append(_try_to_join(folder, "misprinted", genuine.model_dump(mode="json") | {"authority": other}))
        told = sum(isinstance(each, Join) for each in heard)
    return Outcome(len(results), sum(results) + told, f"{told} of {len(heard)} requests that it heard had a code")


@contextlib.contextmanager
def _impostor(coordinator: Coordinator, authority: Any, heard: list[Any]) -> Iterator[str]:
    """What passes on the coordinator's own words, under a certificate of another authority; its address."""
    issued = issue_server_certificate(authority, ["localhost"])

    def greet(content: bytes, _: Any) -> bytes:
        heard.append(unpack(Greet, content))
        return pack(coordinator.greet())

    def take(content: bytes, context: Any) -> bytes:
        heard.append(unpack(Join, content))
        context.abort(grpc.StatusCode.UNAVAILABLE, "thank you")
        return b""

    methods = {
        "Greet": grpc.unary_unary_rpc_method_handler(greet),
        "Join": grpc.unary_unary_rpc_method_handler(take),
    }
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    (port,) = free_ports(1)
    credentials = grpc.ssl_server_credentials([(issued.key, issued.certificate)])
    server.add_secure_port(f"127.0.0.1:{port}", credentials)
    server.start()
    try:
        yield f"localhost:{port}"
    finally:
        server.stop(0).wait()


def _try_to_join(folder: Path, name: str, values: dict[str, Any]) -> bool:
    """Whether an honest institution joins by an invitation that says this."""
    path = folder / f"{name}.invitation"
    path.write_text("\n".join(f'{key} = "{value}"' for key, value in values.items() if key != "version"))
    text = path.read_text().replace(f'expires = "{values["expires"]}"', f"expires = {values['expires']}")
    path.write_text("version = 1\n" + text)
    read_invitation(path)
    try:
        join(path, folder / name)
    except CollegiumError:
        return (folder / name).exists()
    return True


def _replayed(folder: Path) -> Outcome:
    """Another institution sends again, or in another's name, what was said: a join, a new key, a good-bye."""
    with welcoming(folder) as coordinator:
        hospital, bank, thief = Key(), Key(), Key()
        requests = {}
        for name, key in (("hospital", hospital), ("bank", bank)):
            code = coordinator.invite(name, folder / name).code
            requests[name] = coordinator.joining(key, code=code, name=name)
            assert coordinator.send("Join", requests[name], Joined)
        following = Key()
        rotation = coordinator.rotation("hospital", hospital, following)
        assert coordinator.send("Rotate", rotation)
        fresh = coordinator.greet().nonce
        tries = [
            ("Join", requests["hospital"], Joined),
            ("Join", requests["hospital"].model_copy(update={"nonce": fresh}), Joined),
            ("Join", requests["hospital"].model_copy(update={"public_key": thief.line}), Joined),
            ("Rotate", rotation, Done),
            ("Rotate", rotation.model_copy(update={"nonce": coordinator.greet().nonce}), Done),
            ("Rotate", coordinator.rotation("hospital", hospital, thief), Done),
            ("Rotate", coordinator.rotation("hospital", bank, thief), Done),
            ("Rotate", coordinator.rotation("hospital", thief, thief, old_line=following.line), Done),
            ("Rotate", coordinator.rotation("bank", bank, hospital), Done),
            ("Leave", coordinator.goodbye("hospital", bank), Done),
            ("Leave", coordinator.goodbye("hospital", bank, line=following.line), Done),
            ("Leave", coordinator.goodbye("hospital", hospital), Done),
        ]
        granted = [coordinator.send(*each) for each in tries]
        changed = coordinator.enrolled() != {
            "hospital": key_fingerprint(following.line),
            "bank": key_fingerprint(bank.line),
        }
    return Outcome(len(tries), sum(granted) + changed)


def _flood(folder: Path) -> Outcome:
    """Tries without an end from one address, large ones among them."""
    with welcoming(folder, Tries()) as coordinator:
        key = Key()
        nonce = "0" * 64
        request = Join(name="hospital", code="0" * 43, public_key=key.line, nonce=nonce, proof="0" * 64)
        began = time.monotonic()
        answers = []
        options = [("grpc.enable_http_proxy", 0)]
        trusted = grpc.ssl_channel_credentials(coordinator.home.ca_certificate.read_bytes())
        with grpc.secure_channel(coordinator.address, trusted, options=options) as channel:
            for number in range(FLOOD):
                content = bytes(64 * 1024) if number % 4 == 3 else pack(request)
                try:
                    channel.unary_unary(f"/{SERVICE}/Join")(content, timeout=10)
                except grpc.RpcError as error:
                    answers.append((error.code().name, error.details() or ""))
        seconds = time.monotonic() - began
    heard = sum(code == "PERMISSION_DENIED" for code, _ in answers)
    allowed = AT_ONCE + seconds * 0.5 + 1
    note = f"{heard} of {FLOOD} tries were looked at in {seconds:.0f} s"
    return Outcome(FLOOD, int(heard > allowed) + (FLOOD - len(answers)), note)


PROMISE = "an invitation lets one key in, once, under one name"

ATTACKS = (
    Attack("used, expired and guessed invitations", "a stranger", PROMISE, _seen_after_use),
    Attack(
        "somebody in between with another CA while an institution joins",
        "a stranger",
        "an institution tells its code to the coordinator of the invitation alone",
        _in_between,
    ),
    Attack(
        "a join, a new key or a good-bye of another, replayed or forged",
        "an institution",
        "what an institution says at the enrolment door counts once, and for itself",
        _replayed,
    ),
    Attack("a flood of tries at the enrolment door", "a stranger", "the door limits tries", _flood),
)
