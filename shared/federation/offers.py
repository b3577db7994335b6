"""What institution and coordinator say of agreements beside Flower's messages: one request, at the public door.

    POST /v1/collegium/agreement   signed as every request of an institution's (`shared.signing`)
        {"approved": [DIGEST, ...], "declined": DIGEST or null, "holds": DIGEST or null}
        answered by {"offered": DIGEST or null, "agreement": {...}}, the latter unless the institution holds it

An institution says what is so, not what it has just done, so that nothing is lost if it has to say it again. It is told
by the header of another answer that there is something new to ask for.
"""

import json
from typing import Annotated, Any

from pydantic import Field, ValidationError

from shared.config import Model
from shared.errors import ProtocolError
from shared.federation import Federation
from shared.fields import Digest

PATH = "/v1/collegium/agreement"
HEADER = "collegium-agreement"
"""In the answers to an institution's question for messages: the digest that is offered."""
LONGEST = 2**20
"""Bytes of a federation file on the wire."""


class Word(Model):
    """What an institution says of agreements."""

    approved: Annotated[tuple[Digest, ...], Field(max_length=2)] = ()
    """Under which it answers: that in force, and the next one."""
    declined: Digest | None = None
    holds: Digest | None = None
    """What it has been offered last."""


def read_word(body: bytes) -> Word:
    """Read a request's body; ProtocolError if it is none."""
    try:
        return Word.model_validate_json(body)
    except (ValidationError, ValueError):
        raise ProtocolError("Expected an institution's word on agreements, but something else came.") from None


def write_offer(offer: Federation | None, *, held: str | None) -> dict[str, Any]:
    """The answer to an institution that holds the agreement of this digest."""
    if offer is None:
        return {"offered": None}
    known = {} if offer.digest == held else {"agreement": json.loads(offer.model_dump_json())}
    return {"offered": offer.digest, **known}


def read_offer(body: bytes) -> tuple[str | None, Federation | None]:
    """The digest that is said to be offered, and the agreement if it came; its digest is what it is.

    Raises:
        ProtocolError: The answer is none, or the agreement is wrong or not what it is said to be.
    """
    try:
        if len(body) > LONGEST:
            raise ValueError(f"it has more than {LONGEST} bytes")
        said = json.loads(body)
        digest, content = said["offered"], said.get("agreement")
        offer = None if content is None else Federation.model_validate(content)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ProtocolError(f"The coordinator offers a federation file that is wrong at {where[:80]!r}.") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolError(f"Expected an offered federation file, but it cannot be read ({error}).") from None
    if offer is not None and offer.digest != digest:
        raise ProtocolError("The coordinator offers a federation file under a digest that is not its own.")
    return (digest if isinstance(digest, str) else None), offer
