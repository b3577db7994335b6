"""The receipts: an append-only log of everything that has left the site, signed and chained.

`receipts.jsonl` in the state folder holds one JSON object a line. Each names the SHA-256 of the line before, and is
signed by the node key (ECDSA, SHA-256), so that an edited, missing or moved line shows; `receipts.head` names the last
line, so that a log cut short shows as well. Both are on disk before the reply leaves.
"""

import base64
import datetime
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from client.hashchain import Head
from client.keys import fingerprint, read_private_key
from shared.errors import StoreError
from shared.process.files import private_folder, write_synced

log = logging.getLogger("collegium.client")
FILE = "receipts.jsonl"
HEAD_FILE = "receipts.head"
START = Head(0, "0" * 64)
"""What the first receipt, number 1, names as the line before."""
ALGORITHM = ec.ECDSA(hashes.SHA256())


@dataclass(frozen=True)
class Release:
    """One reply that leaves.

    Attributes:
        kind: `query`, `train`, `evaluate` or `refusal`.
        sha256: Of the update as it is sent; of `body` where the reply has no update.
        bytes: How many those are.
        norm: Euclidean norm of the update; None if there is none.
        body: All of the reply but the update, as the JSON that is sent.
        federation: The federation file's digest.
        run: The run, as the coordinator's store names it; Flower's number of it where the request did not say.
        round: The round, if the reply is to one.
        tasks: The tasks that the reply is about.
        epsilon: What the data have spent, this reply included; None without differential privacy.
        ledger: The ledger's last entry; None without a ledger.
        evaluations: How many states of the run have been scored for the coordinator, if the reply is about scores.
    """

    kind: str
    sha256: str
    bytes: int
    norm: float | None
    body: str
    federation: str
    run: str | None
    round: int | None
    tasks: tuple[str, ...]
    epsilon: float | None
    ledger: Head | None
    evaluations: int | None = None


class Receipts:
    """The log of one site, for writing; several processes may write to it in turn.

    Args:
        state: The site's state folder; made if need be.
        key: The node's private key, in OpenSSH format.

    Raises:
        EnrolmentError: The key cannot be read.
        StoreError: The log cannot be opened, or is not as it was left.
    """

    def __init__(self, state: Path, key: Path) -> None:
        self._state = state
        self._key_file = key
        read_private_key(key)
        with _failing(state / FILE, "open"):
            private_folder(state)
        with self._locked() as file:
            _last(file, self._state)

    def append(self, release: Release) -> str:
        """Write one receipt; it is on disk when this returns.

        Returns:
            The receipt's SHA-256.

        Raises:
            StoreError: It could not be written, or the log is not as it was left: then nothing may leave.
        """
        key = read_private_key(self._key_file)  # it may have been rotated since the last one
        with self._locked() as file:
            head = _last(file, self._state)
            receipt = {
                "sequence": head.sequence + 1,
                "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
                "previous": head.sha256,
                **asdict(release),
                "key": fingerprint(key.public_key()),
            }
            signature = key.sign(_canonical(receipt), ALGORITHM)
            line = _canonical(receipt | {"signature": base64.b64encode(signature).decode()})
            head = head.follow(line)
            with _failing(self._state / FILE, "write"):
                file.write(line + b"\n")
                _sync(file)
                _write_head(self._state, head)
        return head.sha256

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        with _failing(self._state / FILE, "open"):
            file = (self._state / FILE).open("a+b")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file


def read(state: Path) -> list[dict[str, Any]]:
    """All receipts as they stand, unchecked; none if there is no log.

    Raises:
        StoreError: The log cannot be read, or a line is no receipt.
    """
    return [receipt for _, receipt in _lines(state)]


def verify(state: Path, keys: Sequence[ec.EllipticCurvePublicKey]) -> list[dict[str, Any]]:
    """All receipts, once numbers, chain, signatures and the end of the log are found to be right.

    Args:
        state: The site's state folder.
        keys: The public keys that receipts may be signed with.

    Raises:
        StoreError: Something is not; names the first receipt that it shows in.
    """
    by_name = {fingerprint(key): key for key in keys}
    found, receipts = START, []
    with _unchanging(state):
        lines, head = list(_lines(state)), _read_head(state)
    for number, (line, receipt) in enumerate(lines, 1):
        if (receipt.get("sequence"), receipt.get("previous")) != (number, found.sha256):
            raise _broken(state, number, "does not follow from the line before it")
        key = by_name.get(str(receipt.get("key")))
        if key is None:
            raise _broken(state, number, f"is signed with another key, {receipt.get('key')}")
        if line != _canonical(receipt) or not _signed(receipt, key):
            raise _broken(state, number, "is not what was signed")
        found = found.follow(line)
        receipts.append(receipt)
    if head not in (found, _before(receipts[-1]) if receipts else START):
        raise StoreError(
            f"Expected {state / FILE} to end with receipt {head.sequence} as {HEAD_FILE} says, but it has "
            f"{len(receipts)} and ends otherwise; receipts have been removed: find the whole log in a backup."
        )
    return receipts


def heads(state: Path) -> list[Head]:
    """The ledger's heads that the receipts name, in their order, each once.

    Raises:
        StoreError: As `read`.
    """
    named = [Head(int(head[0]), str(head[1])) for receipt in read(state) if (head := receipt.get("ledger"))]
    return list(dict.fromkeys(named))


def copy(state: Path, folder: Path) -> list[Path]:
    """Copy the log and its head, as they stand between two receipts, to a folder; the copies, none without a log.

    Raises:
        StoreError: They cannot be copied.
    """
    with _unchanging(state), _failing(state / FILE, "copy"):
        return [Path(shutil.copyfile(each, folder / each.name)) for each in files(state) if each.exists()]


def files(state: Path) -> tuple[Path, Path]:
    """The log and its head, which belong together."""
    return state / FILE, state / HEAD_FILE


def _lines(state: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Every whole line, with what it says; a last line without its end was never finished, and nothing left for it."""
    path = state / FILE
    with _failing(path, "read"):
        content = path.read_bytes() if path.exists() else b""
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            receipt = json.loads(line)
        except ValueError:
            raise _broken(state, number, "is no JSON") from None
        if not isinstance(receipt, dict):
            raise _broken(state, number, "is no receipt")
        yield line, receipt


@contextmanager
def _unchanging(state: Path) -> Iterator[None]:
    """Nobody writes while the block lasts."""
    path = state / FILE
    if not path.exists():
        yield
        return
    with _failing(path, "read"):
        file = path.open("rb")
    with file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def _last(file: BinaryIO, state: Path) -> Head:
    """The last receipt of an open log; what a crash left unfinished is cut off.

    Raises StoreError unless that is the receipt that the head names, or one that a crash kept it from naming.
    """
    with _failing(state / FILE, "read"):
        line, rest = _last_line(file)
        if rest:
            log.warning("cut off %d bytes of a receipt that was never finished", rest)
            file.truncate(file.seek(0, os.SEEK_END) - rest)
        head = _read_head(state)
        if line is None and head == START:
            return head
        if line is not None:
            with _as_receipt(state):
                before = _before(json.loads(line))
                found = before.follow(line)
            if before == head:
                _write_head(state, found)
            if head in (found, before):
                return found
    raise StoreError(
        f"Expected {state / FILE} to end with receipt {head.sequence} as {HEAD_FILE} says, but it ends otherwise; "
        "nothing leaves this site until both files are restored, see `collegium client outbox --verify`."
    )


def _last_line(file: BinaryIO) -> tuple[bytes | None, int]:
    """The last whole line, and how many bytes follow it."""
    end = file.seek(0, os.SEEK_END)
    tail, at = b"", end
    while at and tail.count(b"\n") < 2:
        at = max(0, at - 65536)
        file.seek(at)
        tail = file.read(end - at)
    *lines, rest = tail.split(b"\n")
    return (lines[-1] if lines else None), len(rest)


def _before(receipt: Mapping[str, Any]) -> Head:
    """The head that a receipt followed; the log's head still names it if a crash came between the two."""
    return Head(int(receipt["sequence"]) - 1, receipt["previous"])


def _read_head(state: Path) -> Head:
    path = state / HEAD_FILE
    if not path.exists():
        return START
    with _as_receipt(state):
        number, digest = path.read_text(encoding="ascii").split()
        return Head(int(number), digest)


def _write_head(state: Path, head: Head) -> None:
    write_synced(state / HEAD_FILE, f"{head.sequence} {head.sha256}\n".encode())


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _canonical(receipt: Mapping[str, Any]) -> bytes:
    return json.dumps(receipt, sort_keys=True, separators=(",", ":")).encode()


def _signed(receipt: Mapping[str, Any], key: ec.EllipticCurvePublicKey) -> bool:
    signed = {name: value for name, value in receipt.items() if name != "signature"}
    try:
        key.verify(base64.b64decode(str(receipt.get("signature")), validate=True), _canonical(signed), ALGORITHM)
    except (InvalidSignature, ValueError):
        return False
    return True


def _broken(state: Path, number: int, what: str) -> StoreError:
    return StoreError(f"Receipt {number} of {state / FILE} {what}; compare with a backup of the log.")


@contextmanager
def _as_receipt(state: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"Expected receipts in {state / FILE} and its {HEAD_FILE}, but the last one is unreadable "
            f"({type(error).__name__}); restore both from a backup."
        ) from None


@contextmanager
def _failing(path: Path, doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"Could not {doing} the receipts in {path} ({error.strerror}); nothing leaves this site until then."
        ) from error
