"""What an institution and the enrolment door tell each other: small JSON objects in gRPC's frames.

    Greet    -> Welcome   the coordinator's authority, and a number that the next request has to sign
    Join     -> Joined    a code of an invitation and a public key; the agreement
    Rotate   -> Done      an enrolled key names the one that takes its place
    Leave    -> Done      an enrolled key says good-bye

A refusal is gRPC's PERMISSION_DENIED with one sentence, RESOURCE_EXHAUSTED asks for patience.
"""

from typing import Annotated, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from shared.config import Model, Name
from shared.errors import ProtocolError
from shared.nodekeys import NodeKey

SERVICE = "collegium.Enrolment"
VERSION = 1
GONE = "It was revoked, or has left."
"""Why there is no answer from an institution, for whoever waits for it in a round."""
REQUEST_BYTES = 8 * 1024
"""The largest request."""
ANSWER_BYTES = 4 * 2**20
"""The largest answer, which holds a federation file."""

Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{16,300}$")]
Token = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{16,200}$")]
Pem = Annotated[str, Field(max_length=16_384)]


class Message(Model):
    """What travels, to the byte: signatures are of it."""

    model_config = ConfigDict(str_strip_whitespace=False)


class Greet(Message):
    """The first words."""

    version: int = VERSION
    """Of this protocol."""


class Welcome(Message):
    """The answer to them."""

    authority: Pem
    """Certificates of the coordinator's authority, of which an invitation names one."""
    nonce: Token
    """Good for one request within a minute."""


class Join(Message):
    """An invitation is taken up."""

    name: Name
    code: Token
    public_key: NodeKey
    nonce: Token
    proof: Signature
    """Of `statements.joining`, by the private key."""


class Joined(Message):
    """What an institution needs to take part."""

    authority: Pem
    """As in `Welcome`; what is to stand in ca.crt."""
    address: Annotated[str, Field(max_length=300)]
    """`host:port` of the public door."""
    federation: Annotated[str, Field(max_length=ANSWER_BYTES // 2)]
    """The text of the federation file."""
    digest: Hex
    """Of the agreement in it."""
    certificate: Pem
    """Of the coordinator, issued by the authority."""
    signature: Signature
    """Of `statements.agreement`, by the certificate's key."""


class Rotate(Message):
    """A key is replaced by another."""

    name: Name
    old: NodeKey
    new: NodeKey
    nonce: Token
    old_signature: Signature
    new_signature: Signature
    """Of `statements.rotation`, by both keys."""


class Leave(Message):
    """An institution leaves for good."""

    name: Name
    public_key: NodeKey
    nonce: Token
    signature: Signature
    """Of `statements.leaving`."""


class Done(Message):
    """It has been done, now or before."""


M = TypeVar("M", bound=Model)


def pack(message: Model) -> bytes:
    """A message as it travels."""
    return message.model_dump_json().encode()


def unpack(kind: type[M], content: bytes) -> M:
    """Read a message; ProtocolError if it is none of this kind."""
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        wrong = ".".join(str(place) for place in error.errors()[0]["loc"]) or "all of it"
        raise ProtocolError(f"Expected a message {kind.__name__} of version {VERSION}, but {wrong} is wrong.") from None
