"""`collegium client rotate-key`: the coordinator gets another key in the place of this site's, which has signed it.

The new pair is on disk before it is announced, and takes its place when the coordinator has it; whatever dies on the
way, the same command goes on.
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from client.enrolment.channel import enrolment_door
from client.enrolment.membership import Membership, known_authority, load_membership
from client.enrolment.succession import record_succession
from client.keys import check_agreed_key, generate_node_key, next_key, public_half, read_private_key
from shared.enrolment import statements
from shared.enrolment.messages import Done, Greet, Rotate, Welcome
from shared.errors import CollegiumError, ConfigError, EnrolmentError
from shared.federation import load_federation
from shared.nodekeys import line_of, sign
from shared.process.files import sync_folder, write_new, write_synced


@dataclass(frozen=True)
class Rotated:
    """Lines of public keys."""

    old: str
    new: str


def rotate_key(path: Path, to: Path | None = None) -> Rotated:
    """Replace this site's key, here and at the coordinator.

    Args:
        path: institution.toml.
        to: A private key that `collegium client keygen` made; a new one is made if not given.

    Raises:
        ConfigError: The agreement names this site's key, and another one than the new.
        EnrolmentError: The present key is not enrolled, or the coordinator refuses the new one.
        ConnectionFailedError: The coordinator cannot be reached; the same command may be tried again.
    """
    member = load_membership(path)
    member.door, member.trusted()
    old, following = member.key(), next_key(member.identity.key)
    _check_agreement(member, to, following)
    new = _new_key(member, to)
    old_line, new_line = line_of(old.public_key()), line_of(new.public_key())
    about = {"name": member.name, "old": old_line, "new": new_line}
    with enrolment_door(member.door, member.trusted()) as call:
        welcome = call("Greet", Greet(), Welcome)
        authority = known_authority(welcome, member.trusted())
        signed = statements.rotation(authority=authority, nonce=welcome.nonce, **about)
        signatures = {"old_signature": sign(old, signed), "new_signature": sign(new, signed)}
        call("Rotate", Rotate(nonce=welcome.nonce, **about, **signatures), Done)
    record_succession(member.runtime.state, old, new.public_key())
    key = member.identity.key
    following.replace(key)
    write_synced(key.with_suffix(".pub"), public_half(new) + b"\n")
    sync_folder(key.parent)
    return Rotated(old_line, new_line)


def _check_agreement(member: Membership, to: Path | None, following: Path) -> None:
    """Raise ConfigError if the agreement names keys, and not the new one under this site's name."""
    try:
        federation = load_federation(member.federation)
    except CollegiumError:
        return
    if federation.secure_aggregation is None:
        return
    given = to or (following if following.exists() else None)
    if given is None:
        raise ConfigError(
            "Expected a key that the agreement names, since it has [secure_aggregation.keys], but a new one would be "
            "in none; make one with `collegium client keygen`, send its .pub file to the coordinator, and when you "
            "have approved the federation file that names it, run `collegium client rotate-key --to KEY`."
        )
    check_agreed_key(read_private_key(given).public_key(), member.name, federation)


def _new_key(member: Membership, to: Path | None) -> ec.EllipticCurvePrivateKey:
    following = next_key(member.identity.key)
    if to is not None:
        wanted = read_private_key(to)
        if following.exists() and line_of(read_private_key(following).public_key()) != line_of(wanted.public_key()):
            raise EnrolmentError(
                f"Expected no change of keys under way, but {following} is another key than {to}; finish that one "
                "first by `collegium client rotate-key`, since the coordinator may have it already."
            )
        if not following.exists():
            _write(following, to.read_bytes())
        return wanted
    if not following.exists():
        draft = following.with_name(following.name + ".draft")
        for left in (draft, draft.with_suffix(".pub")):
            left.unlink(missing_ok=True)
        generate_node_key(draft)
        draft.with_suffix(".pub").unlink()
        draft.replace(following)
        sync_folder(following.parent)
    return read_private_key(following)


def _write(path: Path, content: bytes) -> None:
    try:
        write_new(path, content, 0o600)
        sync_folder(path.parent)
    except OSError as error:
        raise EnrolmentError(
            f"Expected to write a key to {path}, but that is not possible ({error.strerror}); choose a folder that you "
            "may write to."
        ) from None
