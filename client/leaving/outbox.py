"""The outbox: updates that wait for the operator's word under `policy.hold`, and `collegium client outbox`.

`outbox/ID/` in the state folder holds the update and what its receipt will say. The process that waits holds a lock on
it, which the kernel frees however that process ends: an update that nobody waits for can no longer leave.
"""

import fcntl
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from client.enrolment.succession import earlier_keys
from client.keys import read_public_key
from client.leaving import receipts
from client.leaving.receipts import Release
from shared.errors import ConfigError, HeldError, StoreError, joined
from shared.process.console import print_table
from shared.process.files import private_folder

log = logging.getLogger("collegium.client")
FOLDER = "outbox"
UPDATE_FILE = "update.safetensors"
RELEASE_FILE = "release.json"
DECISION_FILE = "decision"
POLL_SECONDS = 0.2
SHOWN = 20
"""Receipts shown in the table; `--json` has them all."""
Decision = Literal["approved", "rejected"]


def wait(state: Path, blob: bytes, release: Release, *, seconds: float) -> None:
    """Keep an update until the operator approves it.

    Args:
        state: The site's state folder.
        blob: The update as it would be sent.
        release: What its receipt will say.
        seconds: Longest wait.

    Raises:
        HeldError: It was rejected, or not approved in time; it is gone then.
        StoreError: The outbox cannot be written.
    """
    _sweep(state)
    name = uuid.uuid4().hex[:8]
    entry = state / FOLDER / name
    deadline = time.monotonic() + seconds
    try:
        with _kept(entry, blob, release, seconds):
            log.info("update %s waits for `collegium client outbox --approve %s`, %.0f s at most", name, name, seconds)
            while (decision := _decision(entry)) is None and time.monotonic() < deadline:
                time.sleep(min(POLL_SECONDS, seconds))
    except OSError as error:
        raise StoreError(f"Could not keep an update in the outbox ({error.strerror}); it does not leave.") from error
    if decision is None:
        raise HeldError(f"The update was held for this site's operator, who did not approve it within {seconds:.0f} s.")
    if decision != "approved":
        raise HeldError("The update was held for this site's operator, who rejected it.")
    log.info("update %s was approved", name)


def waiting(state: Path) -> list[dict[str, Any]]:
    """The updates in the outbox: `id`, `until`, whether a process still waits, and what the receipt would say."""
    found = []
    for entry in _entries(state):
        try:
            draft = json.loads((entry / RELEASE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # it has just been decided, or was never finished
        found.append({"id": entry.name, "waiting": _waited_for(entry), **draft})
    return found


def decide(state: Path, name: str, decision: Decision) -> None:
    """Approve or reject a held update.

    Raises:
        ConfigError: There is none of that name, nobody waits for it any more, or it has been decided already.
    """
    entry = state / FOLDER / name
    if entry not in _entries(state):
        raise ConfigError(
            f"Expected a held update {name!r}, but there is none in {state / FOLDER}; `collegium client outbox` lists "
            "those that wait."
        )
    if not _waited_for(entry):
        raise ConfigError(
            f"Expected update {name} to wait, but its process has ended, so it can no longer leave; the coordinator "
            "will ask again."
        )
    draft = entry / f"{DECISION_FILE}.{uuid.uuid4().hex}"
    try:
        draft.write_text(f"{decision}\n", encoding="ascii")
        os.link(draft, entry / DECISION_FILE)  # whole, and only once
    except OSError as error:
        raise ConfigError(f"Update {name} has been decided already, or its time is over ({error.strerror}).") from None
    finally:
        draft.unlink(missing_ok=True)


def report(state: Path, keys: Sequence[Path] | None) -> dict[str, Any]:
    """Held updates and receipts as plain data.

    Args:
        state: The site's state folder.
        keys: Verify chain and signatures with these keys, and with those that they have followed; None does not.

    Raises:
        StoreError: The log is broken, and where.
        EnrolmentError: A key cannot be read.
    """
    written = receipts.read(state)
    if keys is not None:
        named = [read_public_key(key) for key in keys]
        written = receipts.verify(state, [*named, *(old for key in named for old in earlier_keys(state, key))])
    return {"verified": keys is not None, "held": waiting(state), "receipts": written}


def print_report(found: dict[str, Any]) -> None:
    """Print what waits, and the last receipts."""
    columns = ("round", "tasks", "bytes", "norm", "epsilon", "sha256")
    if found["held"]:
        rows = [
            (each["id"], each["until"] if each["waiting"] else "nobody waits any more", *_cells(each))
            for each in found["held"]
        ]
        print_table(("held", "until", *columns), rows, title="Waiting for --approve or --reject")
    written = found["receipts"]
    rows = [(each["sequence"], each["time"], each["kind"], each["run"], *_cells(each)) for each in written[-SHOWN:]]
    print_table(("receipt", "time", "kind", "run", *columns), rows, title=f"Receipts, {len(written)} in all")
    if found["verified"]:
        print(f"Verified: {len(written)} receipts, none edited, missing or moved.")


def _cells(each: dict[str, Any]) -> tuple[Any, ...]:
    tasks = joined(each["tasks"])
    return (each["round"], tasks, each["bytes"], each["norm"], each["epsilon"], each["sha256"][:12])


@contextmanager
def _kept(entry: Path, blob: bytes, release: Release, seconds: float) -> Iterator[None]:
    """The entry, locked, while the block lasts."""
    private_folder(entry.parent)
    entry.mkdir(mode=0o700)
    try:
        until = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(time.time() + seconds))
        (entry / UPDATE_FILE).write_bytes(blob)
        with (entry / RELEASE_FILE).open("x", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            json.dump({"until": until, **asdict(release)}, file)
            file.flush()
            yield
    finally:
        shutil.rmtree(entry, ignore_errors=True)


def _decision(entry: Path) -> str | None:
    try:
        return (entry / DECISION_FILE).read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None


def _entries(state: Path) -> list[Path]:
    folder = state / FOLDER
    return sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def _waited_for(entry: Path) -> bool:
    try:
        with (entry / RELEASE_FILE).open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _sweep(state: Path) -> None:
    """Remove what a process that died has left; nothing of it can leave any more."""
    for entry in _entries(state):
        if not _waited_for(entry):
            shutil.rmtree(entry, ignore_errors=True)
