"""Which keys were this site's before: each has signed the one that took its place, so that old receipts stay good.

`keys.jsonl` in the state folder has a JSON object a line, from the first change of keys to the last.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from shared.enrolment.statements import succession
from shared.errors import StoreError
from shared.nodekeys import is_signed, line_of, read_line, sign
from shared.process.files import private_folder, write_synced

FILE = "keys.jsonl"


def record_succession(state: Path, old: ec.EllipticCurvePrivateKey, new: ec.EllipticCurvePublicKey) -> None:
    """Have it on disk that one key follows another, once.

    Raises:
        StoreError: It cannot be written.
    """
    old_line, new_line = line_of(old.public_key()), line_of(new)
    try:
        private_folder(state)
        written = _lines(state)
        if any((each.get("old"), each.get("new")) == (old_line, new_line) for each in written):
            return
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "old": old_line,
            "new": new_line,
            "signature": sign(old, succession(old=old_line, new=new_line)),
        }
        content = "".join(json.dumps(each) + "\n" for each in [*written, entry])
        write_synced(state / FILE, content.encode())
    except OSError as error:
        raise StoreError(
            f"Expected to write down the new key in {state / FILE}, but that is not possible ({error.strerror}); make "
            "room, and run `collegium client rotate-key` again."
        ) from None


def earlier_keys(state: Path, current: ec.EllipticCurvePublicKey) -> list[ec.EllipticCurvePublicKey]:
    """The keys that this one has followed, the last one first, as far as each has signed its successor.

    Raises:
        StoreError: The file cannot be read.
    """
    try:
        followed = {str(each.get("new")): each for each in _lines(state)}
    except OSError as error:
        raise StoreError(f"Could not read the earlier keys in {state / FILE} ({error.strerror}).") from None
    found, line = list[ec.EllipticCurvePublicKey](), line_of(current)
    while entry := followed.pop(line, None):
        old = str(entry.get("old"))
        if not is_signed(old, succession(old=old, new=line), str(entry.get("signature"))):
            break
        found.append(read_line(old))
        line = old
    return found


def _lines(state: Path) -> list[dict[str, object]]:
    path = state / FILE
    content = path.read_text(encoding="utf-8") if path.exists() else ""
    try:
        return [dict(json.loads(line)) for line in content.splitlines()]
    except (ValueError, TypeError):
        raise StoreError(f"Expected the keys that this site had before in {path}, but a line is none.") from None
