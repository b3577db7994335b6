"""`collegium client leave`: good-bye to the coordinator, signed; the key is good no more."""

from pathlib import Path

from client.enrolment.channel import enrolment_door
from client.enrolment.membership import Membership, known_authority, load_membership
from shared.enrolment import statements
from shared.enrolment.messages import Done, Greet, Leave, Welcome
from shared.nodekeys import line_of, sign


def leave(path: Path) -> Membership:
    """Leave the federation for good; what was sent before stays where it is.

    Args:
        path: institution.toml.

    Raises:
        EnrolmentError: The key is not enrolled, or the coordinator is another one.
        ConnectionFailedError: The coordinator cannot be reached; the same command may be tried again.
    """
    member = load_membership(path)
    key = member.key()
    about = {"name": member.name, "public_key": line_of(key.public_key())}
    with enrolment_door(member.door, member.trusted()) as call:
        welcome = call("Greet", Greet(), Welcome)
        authority = known_authority(welcome, member.trusted())
        signed = statements.leaving(authority=authority, nonce=welcome.nonce, **about)
        call("Leave", Leave(nonce=welcome.nonce, signature=sign(key, signed), **about), Done)
    return member
