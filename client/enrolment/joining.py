"""`collegium client join`: an invitation becomes a folder from which an institution can take part.

The key is made here and on disk before anything is sent, in a folder beside the one that is to be: whatever dies on
the way, the same command goes on with the same key. The folder gets its name when it is whole, by one rename.
"""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from client.enrolment.channel import enrolment_door, shown_certificate
from client.enrolment.template import DATA, institution_text
from client.keys import generate_node_key, read_private_key
from shared.config import parse_toml
from shared.enrolment import statements
from shared.enrolment.certificates import fingerprint, is_issued_by, pem_of, read_certificates
from shared.enrolment.invitation import Invitation, read_invitation
from shared.enrolment.messages import Greet, Join, Joined, Welcome
from shared.errors import EnrolmentError
from shared.federation import Federation
from shared.nodekeys import is_signed, line_of, sign
from shared.process.files import private_folder, sync_folder, write_new

KEY = "node.key"


@dataclass(frozen=True)
class Site:
    """A folder that `join` has made."""

    folder: Path
    name: str
    digest: str
    """Of the agreement, which the institution has yet to approve."""


def join(path: Path, folder: Path | None = None) -> Site:
    """Take up an invitation.

    Args:
        path: The invitation.
        folder: To be made, or empty; named as the institution if not given.

    Raises:
        ConfigError: It is no invitation.
        EnrolmentError: It is not good (any more), the name is taken, what answers is another coordinator, or the
            folder is not empty.
        ConnectionFailedError: The coordinator cannot be reached; the same command may be tried again.
    """
    invitation = read_invitation(path)
    target = (folder or Path(invitation.name)).absolute()
    _check_free(target)
    draft = target.with_name(f"{_drafts(target)}{statements.code_hash(invitation.code)[:16]}")
    first = not draft.exists()
    try:
        key = _key(draft, invitation, path)
        nonce, joined = _ask(invitation, key)
    except EnrolmentError:
        if first:  # else the coordinator may have this key from an attempt before, whose answer was lost
            shutil.rmtree(draft, ignore_errors=True)
        raise
    federation = _checked(joined, invitation, nonce, line_of(key.public_key()))
    _write(draft, joined, federation, invitation)
    draft.rename(target)
    sync_folder(target.parent)
    for other in target.parent.glob(f"{_drafts(target)}*"):  # of invitations that came to nothing
        shutil.rmtree(other)
    return Site(folder or Path(invitation.name), invitation.name, federation.digest)


def _ask(invitation: Invitation, key: ec.EllipticCurvePrivateKey) -> tuple[str, Joined]:
    """The coordinator's number, and its answer."""
    with enrolment_door(invitation.address, _authority(invitation)) as call:
        nonce = call("Greet", Greet(), Welcome).nonce
        about = {"name": invitation.name, "public_key": line_of(key.public_key()), "nonce": nonce}
        signed = statements.joining(authority=invitation.authority, code=invitation.code, **about)
        return nonce, call("Join", Join(code=invitation.code, proof=sign(key, signed), **about), Joined)


def _check_free(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise EnrolmentError(
            f"Expected an empty folder, or none, at {target}, but there is something in it; name another folder, or "
            "move away what is there."
        )


def _key(draft: Path, invitation: Invitation, path: Path) -> ec.EllipticCurvePrivateKey:
    """The key of this attempt, or of one before with the same invitation, whose answer may have been lost."""
    public = (draft / KEY).with_suffix(".pub")
    if public.exists():  # it is written last
        return read_private_key(draft / KEY)
    if datetime.now(UTC) >= invitation.expires:
        raise EnrolmentError(
            f"Expected an invitation that is still good, but {path} was so until {invitation.expires:%Y-%m-%d %H:%M} "
            "UTC only; ask the coordinator for another one."
        )
    try:
        private_folder(draft)
        (draft / KEY).unlink(missing_ok=True)
    except OSError as error:
        raise EnrolmentError(
            f"Expected to make a folder beside {draft.parent}, but that is not possible ({error.strerror}); choose a "
            "place that you may write to."
        ) from None
    generate_node_key(draft / KEY)
    sync_folder(draft)
    return read_private_key(draft / KEY)


def _authority(invitation: Invitation) -> bytes:
    """The CA certificate (PEM) that the invitation names; nothing secret is said before it is known.

    Raises:
        EnrolmentError: What answers does not have it.
    """
    shown = shown_certificate(invitation.address)
    with enrolment_door(invitation.address, shown) as call:
        welcome = call("Greet", Greet(), Welcome)
    for certificate in _certificates(welcome.authority):
        if fingerprint(certificate) == invitation.authority and is_issued_by(read_certificates(shown)[0], certificate):
            return pem_of(certificate)
    raise EnrolmentError(
        f"Expected at {invitation.address} the coordinator whose CA certificate has the fingerprint "
        f"{invitation.authority[:16]}..., as the invitation says, but what answers there cannot show that; somebody "
        "may stand in between, or the invitation was changed: do not go on, and ask the coordinator by telephone."
    )


def _checked(joined: Joined, invitation: Invitation, nonce: str, public_key: str) -> Federation:
    """The agreement in an answer, once the coordinator's signature is found to be right."""
    shown = _certificates(joined.certificate)[:1]
    known = [each for each in _certificates(joined.authority) if fingerprint(each) == invitation.authority]
    statement = statements.agreement(
        authority=invitation.authority,
        nonce=nonce,
        name=invitation.name,
        public_key=public_key,
        federation=joined.federation,
        digest=joined.digest,
    )
    keys = [each.public_key() for each in shown if known and is_issued_by(each, known[0])]
    if not any(
        isinstance(key, ec.EllipticCurvePublicKey) and is_signed(line_of(key), statement, joined.signature)
        for key in keys
    ):
        raise EnrolmentError(
            "Expected a federation file that the coordinator has signed for this invitation, but the signature is of "
            "something else; ask the coordinator."
        )
    federation = parse_toml(Federation, joined.federation, where="the coordinator's federation file")
    if federation.digest != joined.digest:
        raise EnrolmentError(
            f"Expected a federation file with the digest {joined.digest[:12]}..., but it has {federation.digest[:12]}"
            "...; install the version of Collegium that the coordinator uses."
        )
    return federation


def _write(draft: Path, joined: Joined, federation: Federation, invitation: Invitation) -> None:
    """All files of the folder but the key, on disk."""
    text = institution_text(
        invitation.name, address=joined.address, enrolment=invitation.address, federation=federation
    )
    files = {"ca.crt": joined.authority, "federation.toml": joined.federation, "institution.toml": text}
    for name, content in files.items():
        (draft / name).unlink(missing_ok=True)
        write_new(draft / name, content.encode(), 0o600)
    (draft / DATA).mkdir(mode=0o700, exist_ok=True)
    sync_folder(draft)


def _drafts(target: Path) -> str:
    return f".{target.name}.joining-"


def _certificates(pem: str) -> list[x509.Certificate]:
    try:
        return read_certificates(pem.encode())
    except ValueError:
        return []
