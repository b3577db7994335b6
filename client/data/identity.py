"""Whose a record is, and which record: the same whatever the file's format, the columns beside, and the spelling.

Splits, clipping and the privacy ledger all ask here. In doubt two spellings are one: two owners who are taken for one
are protected together, but one who is taken for two is not protected.

- **Owners.** 7, 7.0, "7", "007", " 7 " and "7.0" are one, and so are "P-07" and "p-7". Compared is text: in compatible
  characters (Unicode NFKC) and one case, white space collapsed, invisible characters dropped, one kind of dash, no
  zeros before a number, none after its point. Null, NaN, infinity, empty text, what programs write for a missing value,
  and lists or objects name nobody.
- **Records** are their input, as the model reads it, by letters and digits alone: labels, columns that the task does
  not read, case, white space and punctuation make no other record.
"""

import hashlib
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from shared.errors import listed

if TYPE_CHECKING:
    from shared.tasks import Record, Task

MISSING = frozenset({"nan", "NaN", "NAN", "null", "NULL", "None", "NONE", "<NA>", "NaT", "N/A", "#N/A"})
"""A missing value as programs spell it; `Null` or `Nan` may be somebody's name."""
_NUMBER = re.compile(r"\d+")
_WHOLE = re.compile(r"([+-]?\d+)\.0+")
_DASHES = re.compile("[\u2010-\u2015\u2212]")
_PUNCTUATION = re.compile(r"[\W_]+")


def owner_of(record: "Record", task: "Task", column: str | None) -> str:
    """Whose a record is: what stands in its owner column, normalised; without one, a record is its own owner.

    Args:
        record: One that the task's `check` accepts.
        task: Whose record it is.
        column: `group_by`.

    Raises:
        ValueError: The column is missing, or what stands in it names nobody; the caller adds file and line.
    """
    if column is None:
        return f"record {hash_record(record, task)}"
    if column not in record:
        raise ValueError(
            f"expected an owner in the column {column!r} (group_by), but none came; there are only "
            f"{listed(sorted(record))}"
        )
    try:
        return normalise(record[column])
    except ValueError as error:
        raise ValueError(f"expected an owner in the column {column!r} (group_by), but {error}") from None


def count_owners(records: Sequence["Record"], task: "Task", column: str | None) -> int:
    """How many owners some records have; ValueError as `owner_of`."""
    return len({owner_of(record, task, column) for record in records})


def normalise(value: Any) -> str:
    """The one spelling of a value that names an owner; ValueError, which says what came, if it names nobody."""
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        value = int(value)
    if value is None or isinstance(value, Mapping | list | tuple):
        raise ValueError(f"{'none' if value is None else f'a {type(value).__name__}'} came")
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    if text.strip() in MISSING or (isinstance(value, float | Decimal) and not math.isfinite(value)):
        raise ValueError(f"{text.strip()} came, which stands for a missing value")
    plain = _DASHES.sub("-", _compatible(text))
    plain = "".join(c for c in " ".join(plain.split()) if unicodedata.category(c) not in ("Cc", "Cf")).strip()
    if not plain:
        raise ValueError("an empty text came")
    whole = _WHOLE.fullmatch(plain)
    return _NUMBER.sub(_unpadded, whole[1] if whole else plain)


class Masked(dict[str, Any]):
    """A record without personal data, which is still the record that it was made of."""

    def __init__(self, record: Mapping[str, Any], *, identity: str) -> None:
        super().__init__(record)
        self.identity = identity
        """`hash_record` of the other."""


def hash_record(record: "Record", task: "Task") -> str:
    """Which record it is, by what it gives the model to read (`hash_texts`), before anything of that was masked."""
    return record.identity if isinstance(record, Masked) else hash_texts(task.texts_of(record))


def hash_texts(texts: Sequence[str]) -> str:
    """SHA-256 of a record's texts by their letters and digits, by all characters where one has none; 64 hex digits."""
    compatible = (_compatible(text) for text in texts)
    plain = "\0".join(_PUNCTUATION.sub("", text) or " ".join(text.split()) for text in compatible)
    return sha256(plain)


def sha256(text: str) -> str:
    """In hex; half characters (lone surrogates) count as they are."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _compatible(text: str) -> str:
    """NFKC in one case; twice, because what is folded may need composing again."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _unpadded(number: re.Match[str]) -> str:
    """A run of digits of any script as plain ones, without zeros before it."""
    return "".join(str(unicodedata.decimal(digit)) for digit in number[0]).lstrip("0") or "0"
