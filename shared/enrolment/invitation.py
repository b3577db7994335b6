"""The file that a coordinator hands to an institution: good once, for one name, for some days."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from shared.config import Model, Name, parse, read_toml
from shared.enrolment.messages import Hex, Token
from shared.errors import EnrolmentError
from shared.process.files import write_new

TEXT = """\
# An invitation to the federation {federation}, for {name} alone: good once, until {expires:%Y-%m-%d %H:%M} UTC.
# Whoever has it first can join in that name: hand it over by a way that you trust. Then, at the institution:
#     collegium client join {file}
# authority is the SHA-256 of the coordinator's CA certificate; compare it by telephone if the way was none to trust.
version = 1
federation = "{federation}"
name = "{name}"
address = "{address}"
authority = "{authority}"
code = "{code}"
expires = {expires:%Y-%m-%dT%H:%M:%SZ}
"""


class Invitation(Model):
    """What the file says."""

    version: Literal[1]
    federation: Name
    """What the federation is called."""
    name: Name
    """The institution that is invited."""
    address: Annotated[str, Field(pattern=r"^([^\s:/\[\]]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}$")]
    """`host:port` of the enrolment door."""
    authority: Hex
    """Fingerprint of the coordinator's CA certificate."""
    code: Token
    expires: AwareDatetime


def write_invitation(invitation: Invitation, path: Path) -> None:
    """Write it, for its owner alone.

    Raises:
        EnrolmentError: There is such a file, or it cannot be written.
    """
    text = TEXT.format(**invitation.model_dump(), file=path.name)
    try:
        write_new(path, text.encode(), 0o600)
    except OSError as error:
        raise EnrolmentError(
            f"Expected to write an invitation to {path}, but that is not possible ({error.strerror}); "
            "name another file with --out."
        ) from None


def read_invitation(path: Path) -> Invitation:
    """Read one; ConfigError if it is no invitation, or was changed so that it is none any more."""
    return parse(Invitation, read_toml(path), where=str(path))
