"""What a field of a message may hold, and reading a message whose every field is checked.

A message is a frozen dataclass (`shared.protocol`); the annotation of each of its fields is all that there is to say of
it: `Round`, `Digest`, `Mapping[Name, Count]`. Types are strict (no number is read from a text), numbers are finite and
bounded, texts are printable and short, since what comes from outside ends in logs and on terminals.
"""

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from shared.config import NAME_PATTERN
from shared.errors import ProtocolError, plain

T = TypeVar("T")
Split = Literal["train", "validation", "test"]
Scored = Literal["validation", "test"]
"""The splits whose scores can be asked for; training records are nobody's to ask about."""
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Counts = Literal["exact", "rounded", "none"]
"""How exactly a site says how many records it holds."""
MOST_RECORDS = 10**9
"""No institution holds more records of one task; a larger count would take the whole weight."""
MOST_ROUNDS = 10_000
"""As `rounds.count` allows."""
LONGEST_LIST = 1000
"""Entries of a list or a table: tasks, labels of one, institutions."""
RUN_PATTERN = "[0-9a-z]{1,32}"
"""What the coordinator's store calls a run; it names folders at the sites."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""Of an institution or a task."""
Label = Annotated[str, Field(min_length=1, max_length=200)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256."""
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]*$", max_length=1024)]
RunName = Annotated[str, Field(pattern=rf"^{RUN_PATTERN}$")]
Round = Annotated[int, Field(ge=1, le=MOST_ROUNDS)]
Version = Annotated[str, Field(pattern=rf"^({RUN_PATTERN}:[0-9]{{1,5}})?$")]
"""Of the frozen weights: `RUN:ROUND`, or nothing for those that the backbone came with."""
Head = Annotated[str, Field(pattern=r"^[0-9]{1,18}:[0-9a-f]{64}$")]
"""`NUMBER:SHA-256` of an entry of a privacy ledger."""
Count = Annotated[int, Field(ge=0, le=MOST_RECORDS)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Spent = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
"""An epsilon."""
Metric = Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_@.-]{0,31}$")]
"""What a number is called."""
Metrics = Annotated[Mapping[Metric, Number], Field(max_length=64)]
Sentence = Annotated[str, BeforeValidator(lambda text: plain(text) if isinstance(text, str) else text)]
"""Words for people; of what cannot be printed, and beyond a bounded length, nothing remains."""
Blob = Annotated[bytes, Field(max_length=2**32)]
"""Arrays (`shared.codec`); whoever decodes them bounds their length by what is agreed."""


def is_blob(annotation: Any) -> bool:
    """Whether a field holds bytes, which travel beside a message's text."""
    return bool(annotation is bytes or getattr(annotation, "__origin__", None) is bytes)


def read(kind: type[T], values: Mapping[str, Any]) -> T:
    """A message of this kind, once every field is known to be there, to be one of its fields, and as annotated.

    Raises:
        ProtocolError: Names the first field that is not; nothing that came is quoted.
    """
    known: dict[str, TypeAdapter[Any]] = _adapters(kind)  # type: ignore[arg-type]  # a class can be hashed
    if not values.keys() <= known.keys():
        raise ProtocolError(f"Expected the fields of a {kind.__name__}, but {len(values.keys() - known)} others came.")
    checked = {}
    for name, value in values.items():
        try:
            checked[name] = known[name].validate_python(value, strict=True)
        except ValidationError as error:
            what = error.errors(include_input=False, include_url=False)[0]["msg"]
            raise ProtocolError(f"Expected a well-formed {kind.__name__}, but in {name}: {what}.") from None
    try:
        return kind(**checked)
    except TypeError:
        raise ProtocolError(f"Expected all fields of a {kind.__name__}, but some are missing.") from None


@cache
def _adapters(kind: type[Any]) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(kind, include_extras=True)
    return {item.name: TypeAdapter(hints[item.name]) for item in fields(kind)}
