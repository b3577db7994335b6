"""Notes of an OMOP database (CDM 5.3 and later): NOTE, and what NOTE_NLP has found in them; a patient owns a note."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from client.data.readers.base import BadRow, Rows, Source
from client.data.readers.sql import AT_A_TIME, asking, query_of, reading
from shared.tasks.documents import Entity

if TYPE_CHECKING:
    from sqlalchemy import Connection, TableClause

OWNER = "person_id"
"""The column that names a note's owner."""
NOTE = (
    "note_id",
    OWNER,
    "note_date",
    "note_type_concept_id",
    "note_class_concept_id",
    "note_title",
    "note_text",
    "language_concept_id",
    "provider_id",
    "visit_occurrence_id",
    "note_source_value",
)
NLP = ("note_nlp_id", "note_id", "offset", "lexical_variant", "note_nlp_concept_id")


def read(source: Source) -> Rows:
    """A document for each note whose note_id the query in the file gives; place is that id.

    Columns beside are those of NOTE, and `label`, the name of the note's class. Entities are what NOTE_NLP has, read
    only for tasks that learn words; what names their type is a column of CONCEPT (`annotations.feature`).
    """
    from sqlalchemy import inspect, select, text

    query = query_of(source.path).replace(":", r"\:")
    with asking(source) as engine, reading(engine) as connection, engine.connect() as another:
        schema = source.how.database.cdm_schema if source.how.database else None
        note = _table("note", NOTE, schema).alias("n")
        concept = _table("concept", ("concept_id", "concept_name"), schema)
        nlp = "tokens" in source.lists and inspect(another).has_table("note_nlp", schema=schema)
        found = connection.execute(
            select(note, concept.c.concept_name.label("label"))
            .join_from(note, concept, note.c.note_class_concept_id == concept.c.concept_id, isouter=True)
            .where(text(f"n.note_id IN ({query}\n)"))
            .order_by(note.c.note_id)
        )
        for some in found.mappings().partitions(AT_A_TIME):
            notes = [dict(row) for row in some]
            marks = _marks(another, notes, source, schema) if nlp else {}
            for row in notes:
                entities = marks.get(row["note_id"], [])
                yield f"note {row['note_id']}", entities if isinstance(entities, BadRow) else _document(row, entities)


def _document(row: dict[str, Any], entities: Sequence[Entity]) -> dict[str, Any]:
    text = row.pop("note_text")
    return {**row, "text": text, "entities": list(entities)}


def _marks(
    connection: "Connection", notes: Sequence[dict[str, Any]], source: Source, schema: str | None
) -> dict[Any, list[Entity] | BadRow]:
    """What NOTE_NLP has found, by note."""
    from sqlalchemy import select

    feature = source.how.annotations.feature or "domain_id"
    nlp, concept = _table("note_nlp", NLP, schema), _table("concept", ("concept_id", feature), schema)
    rows = connection.execute(
        select(nlp, concept.c[feature].label("kind"))
        .join_from(nlp, concept, nlp.c.note_nlp_concept_id == concept.c.concept_id)
        .where(nlp.c.note_id.in_([note["note_id"] for note in notes]))
        .order_by(nlp.c.note_id, nlp.c.note_nlp_id)
    )
    found: dict[Any, list[Entity] | BadRow] = {}
    for row in rows.mappings():
        marks = found.setdefault(row["note_id"], [])
        if isinstance(marks, BadRow):
            continue
        start, said = str(row["offset"]).strip(), row["lexical_variant"]
        if not start.isdecimal() or not said:
            found[row["note_id"]] = BadRow(
                f"expected a character and a text in offset and lexical_variant of note_nlp_id {row['note_nlp_id']}, "
                f"but {start[:20]!r} came"
            )
            continue
        marks.append(Entity(str(row["kind"]), int(start), int(start) + len(said), str(row["note_nlp_id"]), said))
    return found


def _table(name: str, columns: Sequence[str], schema: str | None) -> "TableClause":
    from sqlalchemy import column, table

    return table(name, *map(column, columns), schema=schema)
