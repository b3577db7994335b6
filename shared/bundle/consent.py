"""What an institution signs when it consents to a release: that it is named, and under which licence its data are.

A consent is for one release: its id is a hash of the model itself (`shared.bundle.manifest.release_id`), so that the
same consent holds for a bundle of the same model with another card, and for no other model.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field, ValidationError

from shared.config import Licence, Model, Name
from shared.errors import BundleError
from shared.fields import Digest, Hex
from shared.nodekeys import NodeKey, is_signed, line_of, sign

LARGEST = 2**16
"""Bytes of a consent's file."""
Licences = Annotated[Mapping[Name, Licence], Field(max_length=1000)]


class Consent(Model):
    """One institution's word on one release."""

    version: Literal[1] = 1
    name: Name
    """The institution."""
    release: Digest
    """The release's id."""
    agreement: Digest
    """Of the federation file under which it was trained."""
    licences: Licences
    """By task, of the data that the institution has trained on, as far as it says."""
    time: Annotated[str, Field(pattern=r"^[0-9T:.+-]{19,40}$")]
    """When it was signed, ISO 8601."""
    key: NodeKey
    """The institution's."""
    signature: Hex
    """Of all the above, by that key."""

    @property
    def statement(self) -> bytes:
        """What is signed, byte for byte; it names its purpose, so that it can stand in the place of nothing else."""
        about = self.model_dump(mode="json", exclude={"version", "signature"})
        return json.dumps({"purpose": "collegium consent 1", **about}, sort_keys=True, separators=(",", ":")).encode()

    @property
    def is_genuine(self) -> bool:
        """Whether its key has signed it."""
        return is_signed(self.key, self.statement, self.signature)


def sign_consent(
    key: ec.EllipticCurvePrivateKey, *, name: str, release: str, agreement: str, licences: Mapping[str, str], time: str
) -> Consent:
    """A consent, signed by an institution's node key; the arguments are those of `Consent`."""
    unsigned = Consent(
        name=name,
        release=release,
        agreement=agreement,
        licences=dict(licences),
        time=time,
        key=line_of(key.public_key()),
        signature="",
    )
    return unsigned.model_copy(update={"signature": sign(key, unsigned.statement)})


def consent_text(consent: Consent) -> bytes:
    """A consent as its file holds it."""
    return consent.model_dump_json(indent=2).encode() + b"\n"


def read_consent(path: Path) -> Consent:
    """Read a consent; BundleError unless it is one, and signed by the key that it names."""
    try:
        with path.open("rb") as file:
            consent = Consent.model_validate_json(file.read(LARGEST))
    except (OSError, ValidationError) as error:
        raise BundleError(
            f"Expected an institution's consent in {path}, but it cannot be read as one ({type(error).__name__}); take "
            "the file that `collegium client consent` wrote."
        ) from None
    if not consent.is_genuine:
        raise BundleError(
            f"Expected the consent in {path} as {consent.name} has signed it, but the signature does not fit; ask "
            f"{consent.name} for it again."
        )
    return consent
