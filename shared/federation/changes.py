"""How two federation files differ, in words: every key that does, what concerns owners and their texts first."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from shared.errors import joined
from shared.federation.agreement import Federation

FIRST = ("privacy", "secure_aggregation", "tasks", "backbone", "personal", "rounds.weighting", "rounds.normalize_steps")
"""What stands first: how owners are protected, what of their texts is read and leaves, and what a policy may refuse."""
INSTITUTIONS, COUNT = "rounds.institutions", "rounds.count"
LONGEST = 120
"""Characters of a value that are shown; of a longer one, those about the first that differs."""
MOST = 12
"""Entries of a list that are named."""
PLAIN = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def describe_changes(old: Federation, new: Federation) -> list[str]:
    """One line for every key that differs; none if the digests are the same.

    Whatever a file holds, a line is one line: what does not print is escaped, and what is not ASCII is shown as it is
    spelt too, since letters of two alphabets may look the same.
    """
    before, after = _flat(old), _flat(new)
    paths = [path for path in dict.fromkeys([*after, *before]) if before.get(path) != after.get(path)]
    paths.sort(key=_rank)  # stable: in the file's order otherwise
    lines = [line for path in paths for line in _lines(path, before, after)]
    if old.method_name != new.method_name and old.rounds.method == new.rounds.method:
        lines.insert(0, f'the method that rounds.method = "auto" chooses: {old.method_name} -> {new.method_name}')
    return lines


def only_adds(old: Federation, new: Federation) -> bool:
    """Whether a file differs by nothing but further institutions and more rounds, and changes nothing through them.

    Under [privacy] the number of rounds is not one of these: the noise, or what is spent, follows it. Nor is an
    institution under [secure_aggregation], whose key others would have to trust.
    """
    grown = new.rounds.count > old.rounds.count
    if new.rounds.institutions[: len(old.rounds.institutions)] != old.rounds.institutions:
        return False
    if new.rounds.count < old.rounds.count or (grown and (old.privacy or new.privacy)):
        return False
    added = {"institutions": new.rounds.institutions, "count": new.rounds.count}
    same = old.model_copy(update={"rounds": old.rounds.model_copy(update=added)})
    return same.digest == new.digest != old.digest and old.method_name == new.method_name


def _flat(federation: Federation) -> dict[tuple[str, ...], Any]:
    """Every value by its path; what is not given is not there."""
    return dict(_leaves((), json.loads(federation.model_dump_json())))


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        if path and not (len(path) == 1 and path[0] == "tasks"):
            yield path, TABLE
        for key, each in value.items():
            yield from _leaves((*path, key), each)
    elif value is not None:
        yield path, value


TABLE = {"a": "table"}
"""In the place of a table's own value."""


def _rank(path: tuple[str, ...]) -> int:
    at = ".".join(path)
    return next((i for i, first in enumerate(FIRST) if at == first or at.startswith(f"{first}.")), len(FIRST))


def _lines(
    path: tuple[str, ...], before: Mapping[tuple[str, ...], Any], after: Mapping[tuple[str, ...], Any]
) -> Iterator[str]:
    key = ".".join(part if PLAIN.fullmatch(part) else _quoted(part) for part in path)
    old: Any = before.get(path)
    new: Any = after.get(path)
    if path == tuple(INSTITUTIONS.split(".")):
        yield from (f"institution {_quoted(name)} joins" for name in new if name not in old)
        yield from (f"institution {_quoted(name)} leaves" for name in old if name not in new)
        if sorted(old) == sorted(new):
            yield "rounds.institutions are in another order"
    elif path == tuple(COUNT.split(".")):
        yield f"rounds {old} -> {new}"
    elif TABLE in (old, new):
        what = f"task {_quoted(path[1])}" if path[0] == "tasks" and len(path) == 2 else f"[{key}]"
        yield f"{what} is {'added' if old is None else 'dropped'}"
    elif isinstance(old, list) and isinstance(new, list):
        yield f"{key}: {_listed(old, new)}"
    elif isinstance(old, str) and isinstance(new, str):
        start = _difference(old, new) if len(old) > LONGEST or len(new) > LONGEST else 0
        yield f"{key}: {_quoted(old, start)} -> {_quoted(new, start)}"
    else:
        yield f"{key}: {_said(old)} -> {_said(new)}"


def _listed(old: list[Any], new: list[Any]) -> str:
    gone, come = [each for each in old if each not in new], [each for each in new if each not in old]
    if not gone and not come:
        return f"another order, or other repetitions: {_said(old)} -> {_said(new)}"
    parts = [("adds", come), ("drops", gone)]
    return ", and ".join(f"{verb} {joined(map(_said, each), most=MOST)}" for verb, each in parts if each)


def _said(value: Any) -> str:
    if value is None:
        return "not given"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list):
        return f"[{joined(map(_said, value), most=MOST)}]"
    return json.dumps(value)[:LONGEST]


def _quoted(text: str, start: int = 0) -> str:
    part = text[start : start + LONGEST]
    cut = ("... " if start else "") + repr(part) + (" ..." if start + LONGEST < len(text) else "")
    return cut if part.isascii() else f"{cut} (spelt {part!a})"


def _difference(old: str, new: str) -> int:
    """Where to begin showing two long texts, so that the first difference is among what is shown."""
    at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    return max(0, at - LONGEST // 4)
