"""Fields of messages: what passes is as annotated, what does not is named and never quoted."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from shared.errors import ProtocolError, plain, shown
from shared.fields import Blob, Count, Digest, Metrics, Name, Number, Round, RunName, Sentence, Version, is_blob, read

ESCAPE = "\x1b[2J"


@dataclass(frozen=True, kw_only=True)
class Message:
    name: Name = "bank"
    digest: Digest = "0" * 64
    run: RunName = "r1"
    round: Round = 1
    version: Version = ""
    count: Count = 0
    number: Number = 0.0
    metrics: Metrics = field(default_factory=dict)
    words: Sentence = ""
    blob: Blob = b""


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ({"name": "law-firm_2", "version": "r1:12", "number": 3}, None),
        ({"metrics": {"macro_f1": 0.5, "p@10": 1}}, None),
        ({"words": f"no {ESCAPE}\ud800 disk"}, {"words": "no  [2J  disk"}),
        ({"words": "x" * 9999}, {"words": "x" * 497 + "..."}),
    ],
)
def test_what_fits_passes(values: dict[str, Any], kept: dict[str, Any] | None) -> None:
    assert read(Message, values) == Message(**(kept or values))


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "name": ["", "Bank", "bank\n", f"a{ESCAPE}", "a" * 49, 5, None, b"bank"],
        "digest": ["0" * 63, "0" * 65, "G" * 64, "0" * 64 + "\n"],
        "run": ["", "../r1", "R1", "r" * 33, 1],
        "round": [0, -1, 10_001, True, 1.0, "1", None],
        "version": ["r1", "r1:", ":1", "r1:123456", "r1:1 "],
        "count": [-1, 10**12, True, 1.0],
        "number": [float("nan"), float("inf"), "1", None, True],
        "metrics": [{f"x{ESCAPE}": 1.0}, {"x": float("nan")}, {f"m{n}": 1.0 for n in range(65)}, []],
        "words": [5, None],
        "blob": ["text", None],
    }.items(),
)
def test_what_does_not_is_named_and_not_quoted(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ProtocolError, match=f"Expected a well-formed Message, but in {name}: ") as caught:
            read(Message, {name: value})
        assert str(caught.value).isprintable()


def test_unknown_and_missing_fields_are_refused() -> None:
    @dataclass(frozen=True)
    class Two:
        one: int
        other: int

    with pytest.raises(ProtocolError, match="but 2 others came") as caught:
        read(Message, {ESCAPE: 1, "more": 2})
    assert str(caught.value).isprintable()
    with pytest.raises(ProtocolError, match="some are missing"):
        read(Two, {"one": 1})


def test_bytes_travel_beside_the_text() -> None:
    assert [is_blob(annotation) for annotation in (bytes, Blob, str, Name)] == [True, True, False, False]


@pytest.mark.parametrize("text", ["plain", ESCAPE, "\u202eright to left", "\ud800", "'\"", "x" * 500])
def test_what_comes_from_outside_is_printable_and_short(text: str) -> None:
    assert shown(text).isprintable()
    assert len(shown(text)) <= 80
    assert plain(text).isprintable()
    assert shown("a name") == "'a name'"
