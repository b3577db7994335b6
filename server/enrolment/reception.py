"""What happens at the enrolment door: an invitation is taken up, a key replaced, an institution says good-bye.

Functions of messages; `door.py` stands before them. Whoever did not get an answer may ask again, and it comes to the
same: what is remembered here is written before Flower's database changes, and is not believed without it.
"""

from collections.abc import Callable
from contextlib import suppress

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from server.agreement import naming
from server.enrolment.certificates import authority_of
from server.enrolment.invitations import Invitations
from server.enrolment.keys import as_pem
from server.enrolment.tries import Nonces
from server.home import ServerHome, read_settings
from server.service.operator import Node, OperatorClient
from shared.enrolment import statements
from shared.enrolment.certificates import fingerprint as authority_fingerprint
from shared.enrolment.messages import VERSION, Done, Greet, Join, Joined, Leave, Rotate, Welcome
from shared.errors import ConfigError, EnrolmentError
from shared.federation import Federation
from shared.nodekeys import fingerprint, is_signed, sign


class Reception:
    """The coordinator, as far as it enrols.

    Args:
        home: Its folder.
    """

    def __init__(self, home: ServerHome) -> None:
        self._home = home
        self._invitations = Invitations(home.enrolment_database)
        self._nonces = Nonces()

    def greet(self, request: Greet) -> Welcome:
        """Who this is, and a number to sign."""
        if request.version != VERSION:
            raise EnrolmentError(
                f"Expected version {VERSION} of joining, but it is {request.version}; install the version of "
                "Collegium that the coordinator uses."
            )
        return Welcome(authority=self._home.ca_certificate.read_text(), nonce=self._nonces.issue())

    def join(self, request: Join) -> Joined:
        """Enrol the key under the invited name; what the institution needs."""
        authority = self._check(
            request.nonce,
            lambda authority: statements.joining(
                authority=authority,
                nonce=request.nonce,
                code=request.code,
                name=request.name,
                public_key=request.public_key,
            ),
            (request.public_key, request.proof),
        )
        federation, text = self._agreement(request.name)
        first = self._invitations.claim(request.code, request.name, request.public_key)
        try:
            self._enrol(request.name, request.public_key)
        except EnrolmentError:
            if first:  # else who was revoked could use it once more, with another key
                self._invitations.give_back(request.code, request.public_key)
            raise
        signed = statements.agreement(
            authority=authority,
            nonce=request.nonce,
            name=request.name,
            public_key=request.public_key,
            federation=text,
            digest=federation.digest,
        )
        return Joined(
            authority=self._home.ca_certificate.read_text(),
            address=read_settings(self._home).address,
            federation=text,
            digest=federation.digest,
            certificate=self._home.server_certificate.read_text(),
            signature=sign(self._server_key(), signed),
        )

    def rotate(self, request: Rotate) -> Done:
        """Put a new key in the place of an institution's present one, which is good no more."""
        about = {"name": request.name, "old": request.old, "new": request.new}
        self._check(
            request.nonce,
            lambda authority: statements.rotation(authority=authority, nonce=request.nonce, **about),
            (request.old, request.old_signature),
            (request.new, request.new_signature),
        )
        if request.old == request.new:
            raise EnrolmentError("Expected a new key in the place of the old one, but both are the same.")
        with OperatorClient(self._home) as operator:
            node = _named(operator, request.name)
            if node is not None and node.fingerprint == fingerprint(request.new):
                known = [(each.public_key, each.successor) for each in self._invitations.departures()]
                if (request.old, request.new) in known:
                    return Done()
            if node is None or node.fingerprint != fingerprint(request.old):
                raise _not_enrolled(request.name, request.old)
            self._invitations.note(request.name, request.old, "rotated", successor=request.new)
            operator.replace_key(node.node_id, as_pem(request.old), as_pem(request.new))
        return Done()

    def leave(self, request: Leave) -> Done:
        """Let an institution go, for good."""
        about = {"name": request.name, "public_key": request.public_key}
        self._check(
            request.nonce,
            lambda authority: statements.leaving(authority=authority, nonce=request.nonce, **about),
            (request.public_key, request.signature),
        )
        with OperatorClient(self._home) as operator:
            node = _named(operator, request.name)
            if node is None or node.fingerprint != fingerprint(request.public_key):
                gone = [(each.public_key, each.how) for each in self._invitations.departures()]
                if (request.public_key, "left") in gone:
                    return Done()
                raise _not_enrolled(request.name, request.public_key)
            self._invitations.note(request.name, request.public_key, "left")
            self._invitations.withdraw(request.name)
            with suppress(EnrolmentError):  # the operator was quicker
                operator.unregister_node(node.node_id)
        return Done()

    def _enrol(self, name: str, public_key: str) -> None:
        """Have a key enrolled under a name, now or before."""
        with OperatorClient(self._home) as operator:
            node = _named(operator, name)
            if node is None:
                operator.register_node(name, as_pem(public_key))
            elif node.fingerprint != fingerprint(public_key):
                raise EnrolmentError(
                    f"Expected a name that is free, but {name!r} is enrolled with another key; ask the coordinator to "
                    "revoke that one, and to invite you anew."
                )

    def _check(self, nonce: str, statement: Callable[[str], bytes], *signatures: tuple[str, str]) -> str:
        """Spend the nonce and verify all signatures of a statement; the authority that it has to name."""
        self._nonces.spend(nonce)
        authority = authority_fingerprint(authority_of(self._home))
        signed = statement(authority)
        if not all(is_signed(key, signed, signature) for key, signature in signatures):
            raise EnrolmentError(
                "Expected a request that its key has signed, for this coordinator, but the signature is of something "
                "else; ask for a new invitation if this one came by a way that others may use."
            )
        return authority

    def _agreement(self, name: str) -> tuple[Federation, str]:
        try:
            return naming(self._home, name)
        except ConfigError:
            raise EnrolmentError(
                "Expected a federation file at the coordinator, but it cannot be read at the moment; tell the "
                "coordinator, and try again."
            ) from None
        except EnrolmentError:
            raise EnrolmentError(
                f"Expected a name that the federation file knows, but {name!r} is not in it any more; ask the "
                "coordinator."
            ) from None

    def _server_key(self) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key(self._home.server_key.read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key


def _named(operator: OperatorClient, name: str) -> Node | None:
    return next((node for node in operator.nodes() if node.name == name), None)


def _not_enrolled(name: str, key: str) -> EnrolmentError:
    return EnrolmentError(
        f"Expected the key with which {name!r} is enrolled, but {fingerprint(key)} is not, or not any more; ask the "
        "coordinator."
    )
