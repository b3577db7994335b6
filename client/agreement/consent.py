"""Consenting to a release: a statement about one model, signed with this institution's key."""

from datetime import UTC, datetime
from pathlib import Path

from client.institution import load_institution
from client.keys import read_private_key
from shared.bundle import verify_bundle
from shared.bundle.consent import Consent, consent_text, sign_consent
from shared.bundle.keys import read_release_key
from shared.errors import ConfigError, listed
from shared.process.files import write_new


def consent(path: Path, bundle: Path, out: Path | None = None, key: Path | None = None) -> tuple[Path, Consent]:
    """Verify a release and sign that this institution may be named in it.

    Args:
        path: `institution.toml`; `data.TASK.licence` says under which licence the data of a task are.
        bundle: The release.
        out: The file to make; `NAME.consent` if not given.
        key: The coordinator's public key; without it, any key that has signed will do.

    Returns:
        The file, and what is in it.

    Raises:
        BundleError: The bundle is not as it was signed.
        ConfigError: Its agreement does not name this institution, or the file exists or cannot be written.
        EnrolmentError: This institution's key cannot be read.
    """
    site = load_institution(path)
    found = verify_bundle(bundle, None if key is None else read_release_key(key))
    names = found.federation.rounds.institutions
    if site.name not in names:
        raise ConfigError(f"Expected a release that {site.name} took part in, but its agreement names {listed(names)}.")
    file = out or Path(f"{site.name}.consent")
    signed = sign_consent(
        read_private_key(site.identity.key),
        name=site.name,
        release=found.manifest.release,
        agreement=found.manifest.agreement,
        licences={
            task: data.licence for task, data in site.data.items() if data.licence and task in found.federation.tasks
        },
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    try:
        write_new(file, consent_text(signed), 0o644)
    except OSError as error:
        raise ConfigError(f"Expected to make the file {file}, but that fails ({error.strerror}); use --out.") from None
    return file, signed
