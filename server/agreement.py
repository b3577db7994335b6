"""The next agreement: offered to the institutions, and in force for runs once all whom it names have approved it.

    state/agreement/offered.toml   the file that was proposed last
    state/agreement/words/         NAME.json: what an institution has said last, with its signature

An institution trains under nothing but what it has approved itself, whatever stands here; what it says is kept so that
a run need not begin before all are ready, and so that it can be shown who said what.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from server.home import ServerHome
from shared.config import parse, parse_toml
from shared.errors import ConfigError, EnrolmentError, StoreError, joined, listed
from shared.federation import Federation, federation_toml, load_federation
from shared.federation.changes import describe_changes, only_adds
from shared.federation.offers import LONGEST, Word, write_offer
from shared.process.files import private_folder, write_synced

FOLDER, OFFERED, WORDS = "agreement", "offered.toml", "words"


@dataclass(frozen=True)
class Said:
    """What an institution has said last."""

    approved: tuple[str, ...]
    declined: str | None
    time: str
    """In UTC, ISO 8601."""


@dataclass(frozen=True)
class Standing:
    """How far an offered agreement is."""

    approved: tuple[str, ...]
    declined: tuple[str, ...]
    silent: tuple[str, ...]
    """Those that it names and that have said neither."""

    @property
    def ready(self) -> bool:
        """Whether all have approved it."""
        return not self.declined and not self.silent

    def describe(self) -> str:
        """For whom it waits, as a clause."""
        parts = [(self.silent, "not yet"), (self.declined, "declined")]
        return "; ".join(f"{joined(names)} {verb}" for names, verb in parts if names)


def propose(home: ServerHome, file: Path) -> tuple[str, list[str]]:
    """Offer a federation file to the institutions, in the place of the one that was offered before.

    Returns:
        Its digest, and how it differs from the one in force.

    Raises:
        ConfigError: It is wrong, too long, or what is in force already.
        StoreError: It cannot be stored.
    """
    federation, current = load_federation(file), load_federation(home.federation_file)
    if federation.digest == current.digest:
        raise ConfigError(f"Expected another agreement than {home.federation_file}, but {file} has the same digest.")
    _offer(home, federation, file.read_bytes())
    return federation.digest, describe_changes(current, federation)


def extend(home: ServerHome, rounds: int) -> tuple[str, list[str]]:
    """Offer the agreement in force with so many more rounds; returns and raises as `propose`."""
    federation = load_federation(home.federation_file)
    more = federation.rounds.model_dump(mode="json", exclude_none=True) | {"count": federation.rounds.count + rounds}
    values = federation.model_dump(mode="json", exclude_none=True) | {"rounds": more}
    extended = parse(Federation, values, where="the extended agreement")
    _offer(home, extended, federation_toml(extended).encode())
    return extended.digest, describe_changes(federation, extended)


def propose_text(home: ServerHome, text: str) -> tuple[str, list[str]]:
    """Offer the text of a federation file; returns and raises as `propose`."""
    federation = parse_toml(Federation, text, where="the file to be offered")
    _offer(home, federation, text.encode())
    return federation.digest, describe_changes(load_federation(home.federation_file), federation)


def naming(home: ServerHome, name: str) -> tuple[Federation, str]:
    """The agreement that names an institution, and its text: that in force, or else the offered one.

    Raises:
        ConfigError: The file in force is wrong.
        EnrolmentError: Neither names it.
    """
    current = load_federation(home.federation_file)
    for file, federation in ((home.federation_file, current), (_offered_file(home), offered(home))):
        if federation is not None and name in federation.rounds.institutions:
            return federation, file.read_text(encoding="utf-8-sig")
    raise EnrolmentError(
        f"Expected a name among {listed(current.rounds.institutions)}, as rounds.institutions of the federation file "
        f"has them, but it is {name!r}; correct it, or add it to the file first."
    )


def latest_text(home: ServerHome) -> str:
    """The text of the offered federation file, or of that in force."""
    file = _offered_file(home) if _offered_file(home).exists() else home.federation_file
    return file.read_text(encoding="utf-8-sig")


def withdraw(home: ServerHome) -> None:
    """Offer nothing any more; ConfigError if nothing is offered."""
    if not _offered_file(home).exists():
        raise ConfigError("Expected an agreement that is offered, but there is none; `collegium server propose` does.")
    _offered_file(home).unlink()


def offered(home: ServerHome) -> Federation | None:
    """What is offered now, if something is."""
    return load_federation(_offered_file(home)) if _offered_file(home).exists() else None


def standing(home: ServerHome, federation: Federation) -> Standing:
    """Who has approved an agreement, of those that it names."""
    said, digest, names = words(home), federation.digest, federation.rounds.institutions
    approved = tuple(name for name in names if name in said and digest in said[name].approved)
    declined = tuple(n for n in names if n in said and n not in approved and said[n].declined == digest)
    return Standing(approved, declined, tuple(name for name in names if name not in (*approved, *declined)))


def agreement_for_run(home: ServerHome) -> Federation:
    """The agreement of a run that is to begin: the offered one, which is put in force, or else the folder's own.

    Raises:
        ConfigError: The folder's file is wrong, or an agreement is offered that not all have approved; it names them.
        StoreError: The file cannot be put in force.
    """
    offer = offered(home)
    if offer is None:
        return load_federation(home.federation_file)
    found = standing(home, offer)
    if not found.ready:
        raise ConfigError(
            f"Expected all whom the offered agreement {offer.digest[:12]}... names to have approved it, but "
            f"{found.describe()}; wait for them, or take it back by `collegium server propose --withdraw`."
        )
    try:
        _offered_file(home).replace(home.federation_file)
    except OSError as error:
        raise StoreError(f"Could not write {home.federation_file} ({error.strerror}).") from None
    return offer


def waited_for(home: ServerHome, digest: str) -> str | None:
    """For whom a run under the offered agreement waits, as a clause; None if it waits for nobody.

    Once all have approved it, it is put in force; raises as `agreement_for_run`.
    """
    offer = offered(home)
    if offer is None or offer.digest != digest:
        return None
    found = standing(home, offer)
    if found.ready:
        agreement_for_run(home)
        return None
    return found.describe()


def longer_agreement(home: ServerHome, current: Federation) -> Federation | None:
    """The agreement under which a run can go on: one that only adds institutions or rounds, and that all have approved.

    It is the offered one, or the folder's own once that has been put in force; None if there is none such.
    """
    offer = offered(home)
    found = offer if offer and standing(home, offer).ready else load_federation(home.federation_file)
    return found if only_adds(current, found) else None


def words(home: ServerHome) -> dict[str, Said]:
    """What institutions have said, by name."""
    found = {}
    for file in sorted((home.state / FOLDER / WORDS).glob("*.json")):
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
            found[file.stem] = Said(tuple(said["approved"]), said["declined"], str(said["time"]))
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise StoreError(f"Expected what an institution has said in {file}, but {error!r}; remove it.") from None
    return found


class Offers:
    """What the public door says of agreements.

    Args:
        home: The coordinator's folder.
    """

    def __init__(self, home: ServerHome) -> None:
        self._home = home
        self._seen: tuple[Path, int, int] | None = None
        self._offer: Federation | None = None

    def current(self, name: str) -> Federation | None:
        """What an institution is to answer under, if that names it; others hear nothing of it, not its digest either.

        That is the offered file, or else the folder's own, which may be edited too. It is read again when it has
        changed, and nothing is said of one that is wrong.
        """
        offer = self._latest()
        return offer if offer and name in offer.rounds.institutions else None

    def _latest(self) -> Federation | None:
        for file in (_offered_file(self._home), self._home.federation_file):
            with suppress(OSError):
                about = file.stat()
                if (seen := (file, about.st_mtime_ns, about.st_ino)) != self._seen:
                    self._seen, self._offer = seen, None
                    with suppress(ConfigError):
                        self._offer = load_federation(file)
                return self._offer
        return None

    def hear(self, name: str, word: Word, signature: str) -> dict[str, Any]:
        """Keep what an institution says, and answer it.

        Args:
            name: Under which the sender's key is enrolled.
            word: What it says.
            signature: The header by which it signed that, as evidence.

        Raises:
            StoreError: It cannot be stored.
        """
        said = word.model_dump(mode="json", exclude={"holds"})
        before = words(self._home).get(name)
        if before is None or (list(before.approved), before.declined) != (said["approved"], said["declined"]):
            record = said | {"holds": word.holds, "time": _now(), "signature": signature}
            _write(self._home.state / FOLDER / WORDS / f"{name}.json", json.dumps(record).encode())
        return write_offer(self.current(name), held=word.holds)


def _offer(home: ServerHome, federation: Federation, text: bytes) -> None:
    if len(federation.model_dump_json()) > LONGEST // 2:
        raise ConfigError(f"Expected a federation file of at most {LONGEST // 2} bytes, but it has more.")
    _write(_offered_file(home), text)


def _offered_file(home: ServerHome) -> Path:
    return home.state / FOLDER / OFFERED


def _write(file: Path, content: bytes) -> None:
    try:
        private_folder(file.parent)
        write_synced(file, content)
    except OSError as error:
        raise StoreError(f"Could not write {file} ({error.strerror}); make room or mend its rights.") from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
