"""Which owners a site trains on and which it holds out: each by a coin of its own, which only the site can know.

A coin is a keyed BLAKE2b (RFC 7693) of the owner's name, so that it depends on nobody else: whoever comes or goes, in
whatever order files stand, moves no other owner in or out, and an owner falls on the same side in all tasks. The key
lies in the site's state folder and stays as long as that: a site that has lost it draws other coins, and may then
validate on what it has trained on.
"""

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from shared.errors import ConfigError, DataError, StoreError
from shared.fields import Split
from shared.process.files import check_private, private_folder, sync_folder

HOLD_OUT = 0.1
"""Chance of an owner to be held out for validation where a site gives no validation file."""
FILE = "split.key"
"""Name of the key in the state folder."""
KEY_BYTES = 32
T = TypeVar("T")


def open_key(state: Path) -> bytes:
    """The site's key; made if there is none, never replaced.

    Raises:
        StoreError: It cannot be read or written, or is no key.
        ConfigError: Others may read it.
    """
    if (key := find_key(state)) is None:
        write_key(state, secrets.token_bytes(KEY_BYTES))
        key = find_key(state)
    assert key
    return key


def find_key(state: Path) -> bytes | None:
    """The site's key; None if there is none yet, errors as `open_key`."""
    path = state / FILE
    with _failing(path):
        if not path.exists():
            return None
        check_private(path)
        key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise StoreError(
            f"Expected a key of {KEY_BYTES} bytes in {path}, but it has {len(key)}; restore it from a backup, since "
            "under another one records that were trained on are validated on."
        )
    return key


def write_key(state: Path, key: bytes) -> None:
    """Make this the site's key, unless it has one; StoreError as `open_key`."""
    with _failing(state / FILE):
        _write_new(state / FILE, key)


def key_of_seed(seed: int) -> bytes:
    """A key for the simulator, which anybody can compute, since nothing leaves the simulator."""
    return hashlib.blake2b(str(seed).encode(), digest_size=KEY_BYTES, person=b"split of a seed").digest()


def choose(
    files: Mapping[Split, Sequence[T]], limit: float | None, owner: Callable[[T], str], key: bytes
) -> dict[Split, list[T]]:
    """What is used of the files' records: those within `limit` and, where validation is missing, a tenth of the owners.

    Args:
        files: Per split its records.
        limit: A whole number keeps so many records of each split, or fewer: those of the owners with the lowest coins,
            so that one who comes may push another one out. A share below 1 keeps the owners whose coins are below it.
        owner: Whose a record is.
        key: The site's.

    Raises:
        DataError: No training record is left.
    """
    splits = {split: keep(records, limit, owner, key) for split, records in files.items()}
    if "validation" not in splits:
        coins = [_coin(key, b"hold out", owner(record)) for record in splits["train"]]
        pairs = list(zip(splits["train"], coins, strict=True))
        splits["validation"] = [record for record, coin in pairs if coin < HOLD_OUT]
        splits["train"] = [record for record, coin in pairs if coin >= HOLD_OUT]
    if files["train"] and not splits["train"]:
        count = len({owner(record) for record in files["train"]})
        raise DataError(
            f"Expected owners to train on, but all {count} are held out or left out by this site's draw; bring more, "
            "raise `limit`, or name a validation file."
        )
    return {split: records for split, records in splits.items() if records or split == "train"}


def keep(records: Sequence[T], limit: float | None, owner: Callable[[T], str], key: bytes) -> list[T]:
    """The records within `limit`, in their order; see `choose`."""
    if limit is None:
        return list(records)
    coins = [_coin(key, b"limit", owner(record)) for record in records]
    if limit < 1:
        return [record for record, coin in zip(records, coins, strict=True) if coin < limit]
    first = sorted(range(len(records)), key=coins.__getitem__)[: int(limit)]
    return [records[place] for place in sorted(first)]


def check_limit(task: str, limit: float | None) -> None:
    """Raise ConfigError if `limit` depends on how many records others have, which privacy per owner excludes."""
    if limit is not None and limit >= 1:
        raise ConfigError(
            f"Expected data.{task}.limit as a share below 1 under [privacy], but it is {limit}: whom a number of "
            "records leaves out depends on the other owners."
        )


def _coin(key: bytes, purpose: bytes, owner: str) -> float:
    """In [0, 1); of its own for each purpose."""
    digest = hashlib.blake2b(owner.encode(errors="surrogatepass"), key=key, person=purpose, digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


@contextmanager
def _failing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"Expected to keep the key of this site's splits in {path}, but it cannot be read or written "
            f"({error.strerror}); look after the folder's rights and the disk."
        ) from error


def _write_new(path: Path, content: bytes) -> None:
    """Write a file as a whole, for its owner's eyes; one that is there stays."""
    private_folder(path.parent)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
