"""What a request holds: read within limits, and refused in words that repeat nothing of it."""

import asyncio
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

LONGEST_DEPTH = 32
BODY_SECONDS = 15.0
FIELDS = {"inputs"}
HALF = re.compile("[\ud800-\udfff]")


class RefusedError(Exception):
    """A request that is not answered; `text` is for whoever asked, and says nothing that came with it."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, dict(headers or {})


@dataclass(frozen=True)
class Given:
    """The inputs of a request."""

    inputs: tuple[Any, ...]
    single: bool
    """Whether one came by itself, and so does its answer."""


async def read(request: Request, *, most_bytes: int, most_texts: int) -> Given:
    """The inputs of a request.

    Raises:
        RefusedError: It is too large, too slow, or no JSON of the form that is asked for.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedError(415, "Expected a body of type application/json.")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await _body(request, most_bytes)
    except TimeoutError:
        raise RefusedError(
            408, f"Expected the body within {BODY_SECONDS:g} seconds.", {"connection": "close"}
        ) from None
    except ClientDisconnect:
        raise RefusedError(400, "The body ended early.") from None
    return parse(body, most_texts)


async def _body(request: Request, most: int) -> bytes:
    announced = request.headers.get("content-length", "0")
    too_large = RefusedError(413, f"Expected a body of at most {most} bytes.", {"connection": "close"})
    if not announced.isdigit() or len(announced) > 18 or int(announced) > most:
        raise too_large
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise too_large
    return bytes(body)


def parse(body: bytes, most_texts: int) -> Given:
    """The inputs that a body spells.

    Raises:
        RefusedError: It is no JSON of the form that is asked for.
    """
    try:
        value = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise RefusedError(400, "Expected JSON in UTF-8, without NaN and without depths that nobody needs.") from None
    if not isinstance(value, dict) or set(value) != FIELDS:
        raise RefusedError(422, 'Expected an object with "inputs" and nothing else.')
    inputs = value["inputs"]
    many = inputs if isinstance(inputs, list) else [inputs]
    if not many or len(many) > most_texts:
        raise RefusedError(422, f"Expected 1 to {most_texts} inputs.")
    for place, one in enumerate(many):
        if not isinstance(one, str | dict):
            raise RefusedError(422, f"Expected a text or an object as input {place}.")
        if not _is_sound(one):
            raise RefusedError(422, f"Expected whole characters and finite numbers, not too deep, in input {place}.")
    return Given(tuple(many), not isinstance(inputs, list))


def deadline(request: Request, most: float) -> float:
    """Seconds that the client waits: what `Prefer: wait=SECONDS` (RFC 7240) says, but at most `most`."""
    for preference in request.headers.get("prefer", "").split(","):
        name, _, value = preference.strip().partition("=")
        if name.strip().lower() == "wait" and re.fullmatch(r"\d{1,6}(\.\d{1,6})?", value.strip()):
            return min(most, float(value))
    return most


def without_values(reason: str) -> str:
    """What was expected, of a sentence that also says what came."""
    return reason.partition(", but ")[0].partition("; ")[0]


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


def _is_sound(value: Any, depth: int = 0) -> bool:
    if isinstance(value, str):
        return HALF.search(value) is None
    if isinstance(value, dict):
        return depth < LONGEST_DEPTH and all(_is_sound(one, depth + 1) for pair in value.items() for one in pair)
    if isinstance(value, list):
        return depth < LONGEST_DEPTH and all(_is_sound(one, depth + 1) for one in value)
    return not isinstance(value, float) or math.isfinite(value)
