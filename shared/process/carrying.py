"""The objects of a message travel with it, in one body, where Flower has a request for each of them.

A message of Collegium's has six objects, most of them a few bytes. They stand behind Flower's own fields, as fields
of a protobuf message that Flower does not know: a signature covers them, and stock Flower overlooks them.

    TAKES    with a question for messages, and with its answer: how many bytes of objects the sender may be sent
    CARRIED  with a message that is announced or handed out: one of its objects, as often as there are any

What is not carried, because it is large or the other side is stock Flower, is asked for one by one, as ever.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import httpx

from shared.flower.http import ProtobufCall, ProtobufRequestContext
from shared.flower.messages import (
    ConfirmMessageReceivedResponse,
    PullAppMessagesResponse,
    PullMessagesResponse,
    PullObjectResponse,
    get_all_nested_objects,
    iterate_object_tree,
    no_object_id_recompute,
)

TAKES, CARRIED = 90_001, 90_002
"""Numbers of the fields; Flower's own are below 20."""
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""How protobuf writes a field."""
MOST_BYTES = 4 * 2**20
"""Carried at a time. Flower cuts arrays into pieces of 5 MiB, and whole ones travel alone."""
LARGE_BYTES = 64 * 2**10
"""An object of that size is not carried twice in a row: what many are sent is there after the first."""
MOST_FIELDS = 10_000

Content = Callable[[str], bytes | None]
"""An object by its name; empty or None if it is not here."""
Store = Callable[[Mapping[str, bytes]], Collection[str]]
"""Takes objects by their names; those that it has stored."""


@dataclass(frozen=True)
class Carried:
    """What stands behind Flower's fields in a body."""

    takes: int = 0
    """Bytes of objects that its sender may be sent; 0 if it is stock Flower."""
    objects: tuple[bytes, ...] = ()


NOTHING = Carried()


def read_carried(body: bytes, most_fields: int = MOST_FIELDS) -> Carried:
    """What a protobuf message carries.

    Args:
        body: The message, as it was sent.
        most_fields: It may have that many of all kinds, so that reading takes no longer than writing.

    Raises:
        ValueError: It has more fields, or is no message.
    """
    takes, objects = 0, []
    for count, (number, value) in enumerate(_fields(body)):
        if count >= most_fields:
            raise ValueError(f"more than {most_fields} fields")
        if number == TAKES and isinstance(value, int):
            takes = min(value, MOST_BYTES)
        elif number == CARRIED and isinstance(value, bytes):
            objects.append(value)
    return Carried(takes, tuple(objects))


def taking(most: int = MOST_BYTES) -> bytes:
    """What says that so many bytes may be sent; to be put behind a message."""
    return _varint(TAKES << 3 | VARINT) + _varint(most)


def carrying(objects: Iterable[bytes]) -> bytes:
    """What carries objects; to be put behind a message."""
    head = _varint(CARRIED << 3 | LENGTH)
    return b"".join(part for content in objects for part in (head, _varint(len(content)), content))


def hand_out(answer: Any, content: Content, most: int) -> bool:
    """Let an answer with messages carry their objects, up to `most` bytes of them; whether it carries all."""
    names = _names(answer.message_object_trees)
    objects = _within(most, map(content, names))
    answer.MergeFromString(taking() + carrying(objects))
    return len(objects) == len(names)


def take_in(objects: Iterable[bytes], answer: Any, store: Store) -> None:
    """Store the objects that came with an announced message, by their names; its answer asks for the others alone."""
    wanted, named = list(answer.objects_to_push), {object_id(content): content for content in objects}
    if came := {name: named[name] for name in wanted if name in named}:
        stored = store(came)
        del answer.objects_to_push[:]
        answer.objects_to_push.extend(name for name in wanted if name not in stored)


def object_id(content: bytes) -> str:
    """Flower's name of an object."""
    return hashlib.sha256(content).hexdigest()


class Handlers:
    """Flower's handlers of its Runtime interface, whose messages carry their objects.

    A message that was handed out whole is confirmed by that: Flower's database forgets it then in any case.

    Args:
        handlers: Flower's.
        together: What happens inside is one transaction.
    """

    def __init__(self, handlers: Any, together: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self._handlers, self._together = handlers, together

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handlers, name)

    def push_messages(self, request: Any, state: Any, task: Any) -> Any:
        """A process announces messages."""
        objects = read_carried(request.SerializeToString()).objects
        with self._together():
            answer = self._handlers.push_messages(request, state, task)
            take_in(objects, answer, partial(_store_all, state, task.run_id, answer.session_id))
            return answer

    def pull_messages(self, request: Any, state: Any, task: Any) -> Any:
        """A process asks for messages."""
        takes = read_carried(request.SerializeToString()).takes
        with self._together():
            answer = self._handlers.pull_messages(request, state, task)
            if takes and hand_out(answer, contents_of(answer, state.object_store), takes):
                for tree in answer.message_object_trees:
                    state.object_store.delete(tree.object_id)
            return answer


def contents_of(answer: Any, store: Any) -> Content:
    """The objects of an answer's messages, at once from a store that can tell them so."""
    names = _names(answer.message_object_trees)
    return store.contents(names, MOST_BYTES).get if names and hasattr(store, "contents") else store.get  # type: ignore[no-any-return]


def _store_all(state: Any, run_id: int, session_id: str, objects: Mapping[str, bytes]) -> Collection[str]:
    if hasattr(state, "store_objects"):
        stored: Collection[str] = state.store_objects(run_id, session_id, objects)
        return stored
    return {name for name, content in objects.items() if state.store_object(run_id, session_id, name, content)}


class Carrier:
    """Has a client of Flower's send objects with their message, and keeps those that came until it asks for them.

    Args:
        content: The objects of messages that this process announces; by default those that it `offer`s.
        takes: How many bytes of them the other side takes, until an answer of it says so.
        confirms: Whether the other side counts a message that it has handed out whole as confirmed, as `Handlers` do.
    """

    def __init__(self, content: Content | None = None, *, takes: int = 0, confirms: bool = False) -> None:
        self._content, self._takes, self._confirms = content or self._offered_content, takes, confirms
        self._offered: Mapping[str, Any] = {}
        self._there = set[str]()
        """Large objects of the message before, which the other side has, most likely."""
        self._came: Mapping[str, bytes] = {}
        self._confirmed: Collection[str] = ()

    def offer(self, message: Any) -> None:
        """The message is announced next."""
        with no_object_id_recompute():
            self._offered = get_all_nested_objects(message)

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Send a request, or answer it by what is here."""
        path, message = context.request.url.path, context.message
        match path.rpartition("/")[2]:
            case "push-messages" if self._takes:
                return call_next(_with(context, carrying(self._take_along(_names(message.message_object_trees)))))
            case "pull-messages":
                response = call_next(_with(context, taking()))
                if response.status_code == httpx.codes.OK:
                    kind = PullAppMessagesResponse if path.startswith("/v1/runtime/") else PullMessagesResponse
                    self._keep(response.content, kind.FromString(response.content).message_object_trees)
                return response
            case "pull-object" if message.object_id in self._came:
                content = self._came[message.object_id]
                return _answered(
                    context, PullObjectResponse(object_found=True, object_available=True, object_content=content)
                )
            case "confirm-message-received":
                self._came = {}
                if message.message_object_id in self._confirmed:
                    return _answered(context, ConfirmMessageReceivedResponse())
        return call_next(context)

    def _take_along(self, names: list[str]) -> list[bytes]:
        objects = _within(self._takes, (self._content(name) for name in names if name not in self._there))
        self._offered, self._there = (
            {},
            {object_id(content) for content in objects if len(content) >= LARGE_BYTES} | (self._there & set(names)),
        )
        return objects

    def _keep(self, body: bytes, trees: Iterable[Any]) -> None:
        found = read_carried(body)
        self._takes = found.takes
        self._came = {object_id(content): content for content in found.objects}
        whole = self._confirms and all(name in self._came for name in _names(trees))
        self._confirmed = {tree.object_id for tree in trees} if whole else ()

    def _offered_content(self, name: str) -> bytes | None:
        found = self._offered.get(name)
        return None if found is None else found.deflate()


def _names(trees: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(node.object_id for tree in trees for node in iterate_object_tree(tree)))


def _within(most: int, objects: Iterable[bytes | None]) -> list[bytes]:
    """Those that are there, as far as they fit."""
    found = []
    for content in objects:
        if content and len(content) <= most:
            most -= len(content)
            found.append(content)
    return found


def _with(context: ProtobufRequestContext, more: bytes) -> ProtobufRequestContext:
    """The request with more behind its message."""
    old, headers = context.request, context.request.headers.copy()
    del headers["content-length"]
    new = httpx.Request(old.method, old.url, headers=headers, content=old.content + more, extensions=old.extensions)
    return replace(context, request=new)


def _answered(context: ProtobufRequestContext, message: Any) -> httpx.Response:
    return httpx.Response(httpx.codes.OK, content=message.SerializeToString(), request=context.request)


def _fields(body: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a protobuf message."""
    at = 0
    while at < len(body):
        tag, at = _read_varint(body, at)
        kind, value = tag & 7, 0
        if kind in (VARINT, LENGTH):
            value, at = _read_varint(body, at)
        end = at + {VARINT: 0, FIXED64: 8, LENGTH: value, FIXED32: 4}.get(kind, len(body))
        if end > len(body):
            raise ValueError("a field that has no end")
        yield tag >> 3, value if kind == VARINT else body[at:end]
        at = end


def _read_varint(body: bytes, at: int) -> tuple[int, int]:
    """A number, seven bits a byte and the lowest first, and where it ends."""
    number = 0
    for count, byte in enumerate(body[at : at + 10]):
        number |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return number, at + count + 1
    raise ValueError("a number that has no end")


def _varint(number: int) -> bytes:
    written = b""
    while number > 0x7F:
        written += bytes((number & 0x7F | 0x80,))
        number >>= 7
    return written + bytes((number,))
