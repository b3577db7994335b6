"""What this institution has been offered, has approved, and has not: files of its own, whatever a coordinator says.

    federation.toml            the agreement in force, as `institution.toml` names it
    federation.next.toml       beside it: the next one, approved; it takes the place of the other with the first request
                               under it, so that a run under the old one can end
    state/agreement/           offered.toml, as the coordinator sent it last; declined, the digest that was declined

A digest is worked out here, from what the file says. Nothing but `approve`, `policy.approve = "additions"` and the
operator's own hand makes a file one that is approved.
"""

import os
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from client.institution import Institution
from shared.config import parse
from shared.errors import ConfigError, StoreError, listed
from shared.federation import Federation, federation_toml, load_federation
from shared.federation.changes import describe_changes, only_adds
from shared.process.files import private_folder, sync_folder, write_synced

FOLDER, OFFERED, DECLINED = "agreement", "offered.toml", "declined"


@dataclass(frozen=True)
class Agreements:
    """What there is at this site now."""

    current: Federation
    """In force."""
    coming: Federation | None
    """Approved, and in force with the first request under it."""
    offered: Federation | None
    """What the coordinator has offered last; None if that is one of the two."""
    declined: str | None
    """The digest that was declined last."""

    @property
    def approved(self) -> list[str]:
        """The digests under which this site answers."""
        return [each.digest for each in (self.current, self.coming) if each is not None]

    @property
    def changes(self) -> list[str]:
        """How the offered file differs from the one in force."""
        return describe_changes(self.current, self.offered) if self.offered else []


def read_agreements(institution: Institution) -> Agreements:
    """Read them from disk; ConfigError if one of the files is wrong."""
    current, coming = load_federation(institution.federation), _load(next_file(institution))
    if coming is not None and coming.digest == current.digest:
        coming = None
    offered = _load(_folder(institution) / OFFERED)
    known = {each.digest for each in (current, coming) if each}
    try:
        declined = declined_file(institution).read_text(encoding="ascii").strip()
    except OSError:
        declined = ""
    return Agreements(current, coming, offered if offered and offered.digest not in known else None, declined or None)


def next_file(institution: Institution) -> Path:
    """Where the agreement lies that is approved and not in force yet."""
    return institution.federation.with_suffix(".next.toml")


def declined_file(institution: Institution) -> Path:
    """Where the digest stands that was declined last."""
    return _folder(institution) / DECLINED


def keep_offer(institution: Institution, offer: Federation) -> None:
    """Remember what the coordinator offers.

    Raises:
        StoreError: The state folder cannot be written to.
    """
    _write(_folder(institution) / OFFERED, federation_toml(offer).encode())


def approve(institution: Institution, digest: str) -> Federation:
    """Approve what was offered: on disk when this returns.

    Args:
        institution: Its file.
        digest: All 64 digits: of fewer a coordinator could find two files that begin alike.

    Raises:
        ConfigError: No such file was offered, it does not name this site, or its own policy does not list it.
        StoreError: The file cannot be written.
    """
    found = read_agreements(institution)
    if digest in found.approved:
        return found.current if digest == found.current.digest else found.coming or found.current
    offer = found.offered
    if offer is None or offer.digest != digest:
        offered = f"the one that was offered has {offer.digest}" if offer else "none is offered that is not approved"
        raise ConfigError(
            f"Expected the digest of the federation file that the coordinator offers, 64 digits, but {offered}; "
            "read it again by `collegium client agreement`."
        )
    check_offer(institution, offer)
    text = federation_toml(offer)
    if parse(Federation, tomllib.loads(text), where="the offered file").digest != digest:
        raise ConfigError("Expected the offered file to be written as it was read, but it is not; do not approve it.")
    _write(next_file(institution), text.encode())
    with suppress(FileNotFoundError):
        declined_file(institution).unlink()
    return offer


def check_offer(institution: Institution, offer: Federation) -> None:
    """Raise ConfigError if a file cannot be approved here: it does not name this site, or the policy pins others."""
    if institution.name not in offer.rounds.institutions:
        raise ConfigError(
            f"Expected the offered file to name {institution.name!r}, but it names "
            f"{listed(offer.rounds.institutions)}: this site has no part in it, and nothing to approve."
        )
    allowed = institution.policy.federations
    if allowed is not None and offer.digest not in allowed:
        raise ConfigError(
            f"Expected policy.federations to list the offered file, but it does not; add {offer.digest} there first, "
            "since no other word of this site counts while that key is given."
        )


def approve_additions(institution: Institution) -> Federation | None:
    """Under `policy.approve = "additions"`, approve an offer that only adds institutions or rounds; it, if so."""
    found = read_agreements(institution)
    offer = found.offered
    if institution.policy.approve != "additions" or offer is None or offer.digest == found.declined:
        return None
    if not only_adds(found.coming or found.current, offer):
        return None
    try:
        return approve(institution, offer.digest)
    except ConfigError:  # the operator is told of the offer, and by `approve` why it cannot be approved
        return None


def decline(institution: Institution, digest: str) -> None:
    """Decline what was offered, or take back an approval that is not in force yet.

    Raises:
        ConfigError: There is no such file, or it is in force.
        StoreError: That cannot be written.
    """
    found = read_agreements(institution)
    if digest == found.current.digest:
        raise ConfigError(
            "Expected a file that is not in force yet, but this one is; to stop taking part stop the daemon, or list "
            "the files that you accept in policy.federations."
        )
    if digest not in {each.digest for each in (found.coming, found.offered) if each}:
        raise ConfigError(
            "Expected the digest of a file that was offered, 64 digits, but there is none such; "
            "`collegium client agreement` shows it."
        )
    _write(declined_file(institution), f"{digest}\n".encode())
    if found.coming and found.coming.digest == digest:
        next_file(institution).unlink()
        sync_folder(institution.federation.parent)


def take_up(institution: Institution, digest: object) -> bool:
    """Whether a request under this digest is under an approved file that is now in force, though it was not before.

    Raises:
        ConfigError: One of the files is wrong.
        StoreError: The approved file cannot be put in force.
    """
    if load_federation(institution.federation).digest == digest:  # edited by the operator's own hand
        return True
    path = next_file(institution)
    coming = _load(path)
    if coming is None or coming.digest != digest:
        return False
    try:
        os.replace(path, institution.federation)
        sync_folder(institution.federation.parent)
    except OSError as error:
        raise StoreError(
            f"Expected to put {path} in the place of {institution.federation}, but it cannot be moved "
            f"({error.strerror}); let the daemon write to that folder."
        ) from None
    return True


def _folder(institution: Institution) -> Path:
    return institution.runtime.state / FOLDER


def _load(path: Path) -> Federation | None:
    return load_federation(path) if path.exists() else None


def _write(path: Path, content: bytes) -> None:
    try:
        if path.parent.name == FOLDER:
            private_folder(path.parent)
        write_synced(path, content)
    except OSError as error:
        raise StoreError(f"Could not write {path} ({error.strerror}); make room or mend its rights.") from None
