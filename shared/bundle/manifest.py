"""The signed manifest of a bundle: every file with its SHA-256, under one signature of the coordinator's release key.

    manifest.json    what the bundle is, and its files
    manifest.sig     the signature (Ed25519) of these very bytes, as 128 hexadecimal digits and an end of line

Whoever changes, adds, renames or takes away a file breaks the signature, the consents of institutions among them. Only
plain files and folders are in a bundle: a link, whatever it points to, is none. `verify_bundle` says what lies there at
that moment; who lets others write to the folder afterwards has to verify it again.
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError

from shared.bundle.consent import Consent, read_consent
from shared.bundle.folder import (
    ADAPTER_FILE,
    FEDERATION_FILE,
    HEADS_FILE,
    OPTIMIZED_FILE,
    PEFT_FILE,
    THRESHOLDS_FILE,
)
from shared.bundle.keys import ReleaseKey, is_signed_by, release_line
from shared.config import Model, Name
from shared.errors import BundleError, ConfigError, listed, plain
from shared.federation import Federation, load_federation
from shared.fields import Digest

MANIFEST_FILE, SIGNATURE_FILE = Path("manifest.json"), Path("manifest.sig")
CONSENTS = Path("consents")
"""Folder of the institutions' consents, NAME.json each."""
MODEL_FILES = (ADAPTER_FILE, FEDERATION_FILE, HEADS_FILE, OPTIMIZED_FILE, PEFT_FILE, THRESHOLDS_FILE)
"""What a release is, whatever its card says: its id is a hash of them, and institutions consent to that."""
LARGEST = 2**24
"""Bytes of a manifest."""
_PART = "[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
InBundle = Annotated[str, Field(pattern=rf"^({_PART}/){{0,7}}{_PART}$")]
"""A file's path in a bundle: never above it, and none that begins with a dot."""
_PURPOSE = b"collegium bundle 1\n"
"""Before the bytes that are signed."""


class Entry(Model):
    """One file."""

    sha256: Digest
    bytes: Annotated[int, Field(ge=0)]


class Manifest(Model):
    """`manifest.json`."""

    version: Literal[1] = 1
    federation: Name
    """What it is called."""
    agreement: Digest
    """Of the federation file."""
    release: Digest
    """The release's id."""
    time: str
    """When it was signed, in UTC, ISO 8601."""
    key: ReleaseKey
    """Of whoever has signed it."""
    files: Annotated[dict[InBundle, Entry], Field(min_length=1)]
    """All files but the manifest and its signature."""


@dataclass(frozen=True)
class Verified:
    """A bundle that is as it was signed."""

    manifest: Manifest
    federation: Federation
    consents: tuple[Consent, ...]
    """Of institutions that the agreement names, each signed by the key that it names."""


def is_sealed(folder: Path) -> bool:
    """Whether a bundle claims to be signed."""
    return any(os.path.lexists(folder / name) for name in (MANIFEST_FILE, SIGNATURE_FILE))


def seal(folder: Path, key: Ed25519PrivateKey) -> Manifest:
    """Write the manifest of all that lies in a bundle's folder, and sign it; an earlier one is replaced.

    Raises:
        BundleError: Something in it is neither file nor folder, or has a name that no bundle has.
        OSError: The disk refuses.
    """
    files, others = _lying(folder)
    if others:
        raise BundleError(
            f"Expected plain files in {folder}, but {listed(sorted(others))} are none (links, say, or empty folders); "
            "take them out."
        )
    entries = {name: _entry(folder / name) for name in sorted(files)}
    federation = load_federation(folder / FEDERATION_FILE)
    try:
        manifest = Manifest(
            federation=federation.name,
            agreement=federation.digest,
            release=release_id(entries),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            key=release_line(key.public_key()),
            files=entries,
        )
    except ValidationError:
        raise BundleError(f"Expected names of letters, digits and ._- in {folder}, but other ones are there.") from None
    text = manifest.model_dump_json(indent=2).encode() + b"\n"
    (folder / MANIFEST_FILE).write_bytes(text)
    (folder / SIGNATURE_FILE).write_text(key.sign(_PURPOSE + text).hex() + "\n", encoding="ascii")
    return manifest


def release_id(files: Mapping[str, Entry]) -> str:
    """SHA-256 over the names and hashes of MODEL_FILES, those of them that there are."""
    lines = [f"{name} {files[name].sha256}\n" for name in sorted(map(Path.as_posix, MODEL_FILES)) if name in files]
    return hashlib.sha256("".join(["collegium release 1\n", *lines]).encode()).hexdigest()


def release_of(folder: Path) -> str:
    """The id of the release in a bundle's folder, signed or not; ConfigError if a file cannot be read."""
    try:
        return release_id({name.as_posix(): _entry(folder / name) for name in MODEL_FILES if (folder / name).exists()})
    except OSError as error:
        raise ConfigError(f"Could not read the bundle {folder}: {error}.") from None


def verify_bundle(folder: Path, key: str | None = None) -> Verified:
    """Read every byte of a bundle, and hold it against what was signed.

    Args:
        folder: The bundle.
        key: The line of the release key that it must be signed with. Without it, any key will do: compare the
            fingerprint of `manifest.key` with what the coordinator says.

    Raises:
        BundleError: It is not signed, not by that key, or not as it was signed: every file that was changed, added or
            taken away is named.
        ConfigError: Its federation file cannot be read by this release of Collegium.
    """
    manifest = _signed_manifest(folder, key)
    files, others = _lying(folder)
    expected = manifest.files
    wrong = {
        "changed": [name for name in files & expected.keys() if not _is_as(folder / name, expected[name])],
        "missing": expected.keys() - files,
        "added": files - expected.keys(),
        "not a plain file": others,
    }
    if any(wrong.values()):
        told = "; ".join(f"{what}: {listed(sorted(names))}" for what, names in wrong.items() if names)
        raise BundleError(
            f"Expected the bundle {folder} as it was signed, but {told}; take it anew from whoever released it."
        )
    federation = load_federation(folder / FEDERATION_FILE)
    if (manifest.release, manifest.agreement) != (release_id(expected), federation.digest):
        raise BundleError(f"Expected the manifest of {folder} to name its own release and agreement, but it does not.")
    return Verified(manifest, federation, tuple(_consents(folder, manifest, federation)))


def _signed_manifest(folder: Path, key: str | None) -> Manifest:
    text, signature = (_small(folder / name) for name in (MANIFEST_FILE, SIGNATURE_FILE))
    if text is None or signature is None:
        raise BundleError(
            f"Expected a signed bundle in {folder}, but it lacks {MANIFEST_FILE} or {SIGNATURE_FILE}: only `collegium "
            "server release` signs, and `collegium optimize --sign`; take the whole bundle as it was released."
        )
    try:
        manifest = Manifest.model_validate_json(text)
        signed = bytes.fromhex(signature.decode("ascii"))
    except ValueError as error:
        raise BundleError(
            f"Expected the manifest of a bundle in {folder}, but it is none ({type(error).__name__}); take the bundle "
            "anew from whoever released it."
        ) from None
    whole = signature == signed.hex().encode() + b"\n"  # so that one signature is one text
    if not whole or not is_signed_by(manifest.key, _PURPOSE + text, signed):
        raise BundleError(
            f"Expected {MANIFEST_FILE} of {folder} as it was signed, but the signature does not fit; take the bundle "
            "anew from whoever released it."
        )
    if key is not None and manifest.key != key:
        raise BundleError(
            f"Expected {folder} to be signed by {key}, but it is by {manifest.key}; it is from somebody else, or the "
            "coordinator has a new key: ask."
        )
    return manifest


def _consents(folder: Path, manifest: Manifest, federation: Federation) -> Iterable[Consent]:
    for name in sorted(manifest.files):
        if Path(name).parent == CONSENTS:
            consent = read_consent(folder / name)
            check_consent(consent, manifest.release, federation)
            if Path(name) != consent_file(consent.name):
                raise BundleError(
                    f"Expected the consent of {consent.name} in {consent_file(consent.name)}, not {name}."
                )
            yield consent


def consent_file(name: str) -> Path:
    """Where an institution's consent lies in a bundle."""
    return CONSENTS / f"{name}.json"


def check_consent(consent: Consent, release: str, federation: Federation) -> None:
    """Raise BundleError unless a consent is for this release, by an institution of its agreement and with its key."""
    if (consent.release, consent.agreement) != (release, federation.digest):
        raise BundleError(
            f"Expected {plain(consent.name)}'s consent to release {release[:12]}..., but it is to "
            f"{consent.release[:12]}...; ask for one to this release."
        )
    if consent.name not in federation.rounds.institutions:
        raise BundleError(f"Expected consents of {listed(federation.rounds.institutions)}, but {consent.name}'s came.")
    secure = federation.secure_aggregation
    if secure is not None and secure.keys[consent.name] != consent.key:
        raise BundleError(f"Expected {consent.name}'s consent by the key that the agreement names, but it is another.")


def _lying(folder: Path) -> tuple[set[str], set[str]]:
    """What lies in a bundle's folder but its manifest: files, and what is neither file nor a folder with files."""
    files, others = set[str](), set[str]()
    if not folder.is_dir():
        raise BundleError(f"Expected a bundle in {folder}, but there is no such folder; name another.")
    for place, folders, names in os.walk(folder):
        here = Path(place)
        for name in [*folders, *names]:
            path = here / name
            inside, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
            if stat.S_ISREG(mode):
                files.add(inside)
            elif not stat.S_ISDIR(mode):
                others.add(inside)
        if not folders and not names and here != folder:
            others.add(here.relative_to(folder).as_posix())
    return files - {MANIFEST_FILE.as_posix(), SIGNATURE_FILE.as_posix()}, others


def _entry(path: Path) -> Entry:
    with path.open("rb") as file:
        return Entry(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=path.stat().st_size)


def _is_as(path: Path, entry: Entry) -> bool:
    try:
        return path.lstat().st_size == entry.bytes and _entry(path) == entry
    except OSError:
        return False


def _small(path: Path) -> bytes | None:
    """What a small plain file holds; None if there is none."""
    try:
        about = path.lstat()
        return path.read_bytes() if stat.S_ISREG(about.st_mode) and about.st_size <= LARGEST else None
    except OSError:
        return None
