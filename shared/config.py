"""How every file that people write is read: into frozen models, an unknown key an error, all errors at once.

Nothing here needs torch, so that a mistake in an institution's file is named in the moment it is read.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import ConfigError, joined, plain

NAME_PATTERN = r"^[a-z][a-z0-9_-]{0,47}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Licence = Annotated[str, Field(pattern=r"^[A-Za-z0-9 .,:;()+/_-]{1,100}$")]
"""An SPDX identifier, or a few words."""
Scheme = Literal["BIO", "IOB", "BIOES"]
"""How tags of entities are written (`shared.tasks.tags`); here, because an institution's file says so without torch."""
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
"""With which a file in UTF-16 begins."""
M = TypeVar("M", bound=BaseModel)


class Model(BaseModel):
    """Base of every configuration model: immutable, an unknown key is an error, and every number is finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, allow_inf_nan=False)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As in pydantic, but what a `cached_property` has remembered is worked out anew."""
        copied = super().model_copy(update=update, deep=deep)
        for name in vars(copied).keys() - type(self).model_fields.keys():
            del vars(copied)[name]
        return copied


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, with or without a byte order mark; ConfigError if it is missing, not UTF-8 or not TOML."""
    try:
        content = path.read_bytes()
        if content[:2] in UTF16_MARKS:
            raise ConfigError(
                f"Expected UTF-8 text in {path}, but it is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)."
            )
        return tomllib.loads(content.decode("utf-8-sig").replace("\r\n", "\n"))
    except FileNotFoundError as error:
        raise ConfigError(f"Expected a file at {path}, but there is none; check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Could not read {path}: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}; mend that line.") from error


def parse_toml(model: type[M], text: str, *, where: str) -> M:
    """Validate the text of a TOML file as `model`; ConfigError as of `read_toml` and `parse`."""
    try:
        values = tomllib.loads(text.removeprefix("\ufeff").replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not valid TOML: {error}; mend that line.") from error
    return parse(model, values, where=where)


def parse(model: type[M], values: dict[str, Any], *, where: str) -> M:
    """Validate `values` as `model`; ConfigError lists every error at once, each with its key and what came."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: " + joined((_explain(item, values) for item in error.errors()), "; ")) from None


def _explain(item: Any, values: Mapping[str, Any]) -> str:
    key = plain(".".join(_keys(item["loc"], values)), 200) or "file"
    if item["type"] == "extra_forbidden":
        return f"{key} is not a known key; remove it or check its spelling"
    if item["type"] == "missing":
        return f"{key} is required but missing"
    if item["type"] == "value_error":
        return f"{key}: {item['msg'].removeprefix('Value error, ')}"
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"{key}: {message}, not {_shown(item['input'])}"


def _keys(places: Sequence[str | int], values: Any) -> Iterator[str]:
    """The keys on the way to an error, without pydantic's own mark of a table's `type` between them."""
    for place in places:
        if isinstance(values, Mapping) and place not in values and values.get("type") == place:
            continue
        yield str(place)
        try:
            values = values[place]
        except (KeyError, IndexError, TypeError):
            values = None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
