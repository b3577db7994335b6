"""Annotated documents, as tools for annotation keep them, and what tasks make of them.

A document is a text, with entities by character, relations between entities, and labels of the whole. Tasks read words
and tags, or pairs of entities in a sentence (`Task.records_of`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.errors import shown

WORD = re.compile(r"\w(?:\S*\w)?|\S")
"""A word of plain text, without the punctuation before and behind it; or one such sign."""
BORDER = re.compile(r"(?<=[.!?])\s+(?=[\"'(\[]?[^\W\d_a-z])|\s*\n\s*")
"""Between two sentences: white space behind an end and before a capital, or the end of a line."""
Place = tuple[int, int]
"""First position, and the one after the last."""


@dataclass(frozen=True)
class Entity:
    """Something that is marked in a text."""

    label: str
    start: int
    """Its first character."""
    end: int
    """The one after its last."""
    id: str = ""
    """By which relations name it."""
    text: str | None = None
    """What the tool says stands there, if it says so."""


@dataclass(frozen=True)
class Relation:
    """What holds between two entities."""

    label: str
    head: str
    """The id of an entity, as `tail`."""
    tail: str


@dataclass(frozen=True)
class Document:
    """A text and what is marked in it."""

    text: str
    entities: Sequence[Entity] = ()
    relations: Sequence[Relation] = ()
    labels: Sequence[str] = ()
    """Of the whole."""
    beside: Mapping[str, Any] = field(default_factory=dict)
    """Other columns, such as whose it is."""
    longest: bool = False
    """Whether of entities that overlap the longest is taken where only one can be; else that is an error."""


def tagged(document: Document) -> tuple[list[str], list[str]]:
    """Words and BIO tags; a word of which a part is marked is marked as a whole.

    Raises:
        ValueError: Entities overlap.
    """
    places = word_places(document.text)
    tags, owner = ["O"] * len(places), list[Entity | None]([None] * len(places))
    for entity in sorted(document.entities, key=lambda each: (each.start - each.end, each.start)):
        begin, end = words_within(places, (entity.start, entity.end))
        if taken := [each for each in owner[begin:end] if each is not None]:
            if document.longest or (entity.label, begin, end) == _as_words(taken[0], places):
                continue
            raise ValueError(
                f"expected entities that do not overlap, but {taken[0].label} and {entity.label} do at character "
                f'{entity.start}; add annotations.overlaps = "longest" to take the longer one, or leave one type out '
                "by annotations.skip"
            )
        owner[begin:end] = [entity] * (end - begin)
        tags[begin:end] = [f"{'I' if word else 'B'}-{entity.label}" for word in range(end - begin)]
    return [document.text[start:end] for start, end in places], tags


def pairs(document: Document, no_relation: str | None) -> Iterator[dict[str, Any]]:
    """A record for each relation, of the sentences in which it stands: `tokens`, `head`, `tail`, their types, `label`.

    Args:
        document: The document.
        no_relation: Label of two entities of one sentence between which no relation is marked, the first one its head;
            None leaves them out.

    Raises:
        ValueError: A relation names an entity that there is not.
    """
    entities, places = {entity.id: entity for entity in document.entities}, word_places(document.text)
    sentences = list(_sentences(document.text))
    related = set[frozenset[str]]()
    for relation in document.relations:
        if missing := [name for name in (relation.head, relation.tail) if name not in entities]:
            raise ValueError(f"expected the entity {shown(missing[0])} of a relation {relation.label}, but none came")
        related.add(frozenset((relation.head, relation.tail)))
        yield _pair(document, entities[relation.head], entities[relation.tail], relation.label, places, sentences)
    in_order = sorted(document.entities, key=lambda entity: (entity.start, entity.end)) if no_relation else []
    for number, first in enumerate(in_order):
        for second in in_order[number + 1 :]:
            if second.start >= _around(first, sentences)[1]:
                break
            same = words_within(places, (first.start, first.end)) == words_within(places, (second.start, second.end))
            if not same and frozenset((first.id, second.id)) not in related:
                yield _pair(document, first, second, no_relation, places, sentences)


def word_places(text: str) -> list[Place]:
    """Where each word of a text begins and ends."""
    return [match.span() for match in WORD.finditer(text)]


def words_within(places: Sequence[Place], span: Place) -> Place:
    """The first word of which a part lies in a span of characters, and the one after the last."""
    touched = [number for number, (start, end) in enumerate(places) if start < span[1] and end > span[0]]
    return (touched[0], touched[-1] + 1) if touched else (0, 0)


def _as_words(entity: Entity, places: Sequence[Place]) -> tuple[str, int, int]:
    return entity.label, *words_within(places, (entity.start, entity.end))


def _sentences(text: str) -> Iterator[Place]:
    start = 0
    for border in BORDER.finditer(text):
        yield start, border.start()
        start = border.end()
    yield start, len(text)


def _around(entity: Entity, sentences: Sequence[Place]) -> Place:
    """The sentence, or the sentences, in which an entity stands."""
    touched = [(start, end) for start, end in sentences if start < entity.end and end > entity.start]
    return (touched[0][0], touched[-1][1]) if touched else (entity.start, entity.end)


def _pair(
    document: Document,
    head: Entity,
    tail: Entity,
    label: str | None,
    places: Sequence[Place],
    sentences: Sequence[Place],
) -> dict[str, Any]:
    around = _around(head, sentences), _around(tail, sentences)
    first, last = words_within(places, (min(start for start, _ in around), max(end for _, end in around)))
    spans = [words_within(places, (entity.start, entity.end)) for entity in (head, tail)]
    (head_span, tail_span) = ([begin - first, end - first] for begin, end in spans)
    tokens = [document.text[start:end] for start, end in places[first:last]]
    types = {"head_type": head.label, "tail_type": tail.label}
    return {**document.beside, "tokens": tokens, "head": head_span, "tail": tail_span, **types, "label": label}
