"""Annotated documents: what becomes of them in each task, what is passed over, and what is refused, by place."""

import json
from pathlib import Path
from typing import Any

import pytest

from client.data.annotations import records_of
from client.data.loading import check_rows
from client.data.readers.options import Annotations
from client.data.sources import BadRow
from client.institution import Data
from shared.tasks import Task, build_task
from shared.tasks.documents import Entity, Relation
from shared.tasks.relation_extraction import RelationExtractionSpec
from shared.tasks.text_classification import TextClassificationSpec
from shared.tasks.token_classification import TokenClassificationSpec

ENTITIES = build_task("entities", TokenClassificationSpec(type="token-classification", types=("Drug", "Disease")))
TOPICS = build_task("topics", TextClassificationSpec(type="text-classification", labels=("a", "b")))
SEVERAL = build_task("t", TextClassificationSpec(type="text-classification", labels=("a", "b"), multi_label=True))
RELATIONS = build_task("r", RelationExtractionSpec(type="relation-extraction", labels=("Treats", "Causes")))
HOW = Annotations()


def row(text: str, *entities: Entity, **more: Any) -> dict[str, Any]:
    return {"text": text, "entities": entities, "patient": "P-1", **more}


def tags(found: dict[str, Any], how: Annotations = HOW) -> str:
    (record,) = records_of(found, ENTITIES, how)
    return " ".join(f"{word}/{tag}" for word, tag in zip(record["tokens"], record["tags"], strict=True))


def test_a_word_of_which_a_part_is_marked_is_marked_whole() -> None:
    assert tags(row("No 10mg-tablets (today).", Entity("Drug", 3, 7))) == (
        "No/O 10mg-tablets/B-Drug (/O today/O )/O ./O"
    )


def test_columns_beside_stay() -> None:
    (record,) = records_of(row("x"), ENTITIES, HOW)
    assert record["patient"] == "P-1"


INSIDE = row("Breast cancer drug.", Entity("Disease", 0, 13), Entity("Drug", 0, 18), Entity("Disease", 14, 18))


def test_overlaps_are_an_error_or_the_longest_is_taken() -> None:
    with pytest.raises(
        ValueError, match=r"Drug and Disease do at character 0; add annotations\.overlaps = \"longest\""
    ):
        tags(INSIDE)
    assert tags(INSIDE, Annotations(overlaps="longest")) == "Breast/B-Drug cancer/I-Drug drug/I-Drug ./O"
    assert tags(INSIDE, Annotations(skip=("Drug",))) == "Breast/B-Disease cancer/I-Disease drug/B-Disease ./O"
    assert tags(row("Gout.", Entity("Disease", 0, 4), Entity("Disease", 0, 4))) == "Gout/B-Disease ./O"


@pytest.mark.parametrize(
    ("entity", "said"),
    [
        (Entity("Drug", 3, 3), r"expected Drug within the 8 characters of the text, but \[3, 3\) came"),
        (Entity("Drug", 3, 9), r"but \[3, 9\) came"),
        (Entity("Drug", 0, 2, text="No"), "expected Drug 'No' at character 0, but 'An' stands there"),
    ],
)
def test_an_entity_stands_where_it_says(entity: Entity, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tags(row("An error", entity))


def test_places_that_count_units_of_utf16_are_corrected() -> None:
    assert tags(row("\U0001f600 ASS now", Entity("Drug", 3, 6, text="ASS"))) == "\U0001f600/O ASS/B-Drug now/O"


def test_labels_of_the_whole() -> None:
    assert records_of(row("x", labels=["a"]), TOPICS, HOW) == [{"patient": "P-1", "text": "x", "label": "a"}]
    assert records_of(row("x", label="b"), TOPICS, HOW)[0]["label"] == "b"
    assert records_of(row("x", labels=["a", "b"]), SEVERAL, HOW)[0]["labels"] == ["a", "b"]
    with pytest.raises(ValueError, match="expected one label"):
        records_of(row("x", labels=["a", "b"]), TOPICS, HOW)


def test_a_relation_is_read_with_the_sentences_that_it_spans() -> None:
    text = "She came. Ramipril was given. Her gout got worse. She left."
    found = row(
        text,
        Entity("Drug", 10, 18, "1"),
        Entity("Disease", 34, 38, "2"),
        Entity("Noise", 40, 43, "3"),
        relations=[Relation("Causes", "2", "1"), Relation("Treats", "1", "3")],
    )
    (record,) = records_of(found, RELATIONS, Annotations(skip=("Noise",)))
    assert " ".join(record["tokens"]) == "Ramipril was given . Her gout got worse ."
    assert (record["head"], record["tail"], record["head_type"]) == ([5, 6], [0, 1], "Disease")
    with pytest.raises(ValueError, match="expected the entity '7' of a relation Causes"):
        records_of(row("x", relations=[Relation("Causes", "7", "8")]), RELATIONS, HOW)


def said(path: Path, task: Task = ENTITIES, **how: Any) -> list[str]:
    data = Data(train=path, **how)
    return [f"{place}: {row.what}" for place, row in check_rows(path, task, data) if isinstance(row, BadRow)]


def test_bad_lines_of_brat_are_named(tmp_path: Path) -> None:
    for name, ann in {
        "a": "T1\tDrug 0 7 Aspirin\n",
        "b": "T1\tDrug 0 7\tAspirin\nX1\tDrug\nT2\tDrug 0\nR1\tTreats Arg1:T1\n",
        "c": "T1\tDrug 1 7\tAspirin\n",
        "d": "T1\tDrug 0 7;8 12\tAspirin acid\n",
    }.items():
        (tmp_path / f"{name}.txt").write_text("Aspirin acid helps.")
        (tmp_path / f"{name}.ann").write_text(ann)
    (tmp_path / "e.txt").write_text("No annotations.")
    found = said(tmp_path, format="brat")
    assert [text.split(": ")[0] for text in found] == [
        "a.ann, line 1",
        "b.ann, line 2",
        "b.ann, line 3",
        "b.ann, line 4",
        "c.ann",
        "e.ann",
    ]
    assert "expected Drug 'Aspirin' at character 1, but 'spirin' stands there" in found[4]
    assert "there is no file" in found[5]


def test_bad_lines_of_conll_are_named(tmp_path: Path) -> None:
    (path := tmp_path / "a.conll").write_bytes(b"He O\nleft\n\nA B O\nB O\n\ncaf\xe9 O\n\nFine O\n")
    assert said(path) == [
        "2: expected a word and its tag, but 1 column came",
        "5: expected 3 columns as in the sentence's first line, but 2 came",
        "7: expected UTF-8, but byte 0xe9 came (in Windows-1252 it is 'é')",
    ]


def test_documents_of_conll_have_names(tmp_path: Path) -> None:
    (path := tmp_path / "a.conll").write_text("-DOCSTART- O\n\nA O\n\n# newdoc id = x\n# who = me\nB O\n\nC O\n")
    rows = [row for _, row in check_rows(path, ENTITIES) if not isinstance(row, BadRow)]
    assert [row["document"] for row in rows] == [1, "x", "x"]
    assert [row.get("who") for row in rows] == [None, "me", None]


def test_exports_of_another_form_are_named(tmp_path: Path) -> None:
    (path := tmp_path / "a.jsonl").write_text('{"text": "x", "label": [[0, 1]]}\n{"text": "y", "label": ["a"]}\n')
    assert said(path, TOPICS, format="doccano")[0].startswith("1: expected an export of doccano")
    assert len(said(path, TOPICS, format="doccano")) == 1
    (path := tmp_path / "a.json").write_text(json.dumps([{"annotations": [{"result": [{}]}]}, {"annotations": []}]))
    assert said(path, format="label-studio") == [
        "1: expected a task as Label Studio exports it, but it has another form"
    ]
    (path := tmp_path / "s.json").write_text(
        '{"data": [{"title": "t"},\n {"paragraphs": [{"qas": 3}, {"context": "c", "qas": [{"id": 7, '
        '"is_impossible": false}]}]}]}'
    )
    assert [text.split(",")[0] + text.split(":")[0][-1] for text in said(path, format="squad")] == [
        "1: expected an article with a list of 'paragraphs'1",
        "line 21",
        "line 27",
    ]


def test_label_studio_minimal_and_choices(tmp_path: Path) -> None:
    minimal = {"text": "Gout", "label": [{"start": 0, "end": 4, "text": "Gout", "labels": ["Disease"]}]}
    chosen = [{"result": [{"type": "choices", "value": {"choices": ["a"]}}]}]
    (path := tmp_path / "a.json").write_text(json.dumps([minimal, {"data": {"text": "x"}, "annotations": chosen}]))
    rows = [row for _, row in check_rows(path, ENTITIES, Data(train=path, format="label-studio"))]
    assert [row["tags"] for row in rows if not isinstance(row, BadRow)] == [["B-Disease"], ["O"]]
    topics = [row for _, row in check_rows(path, TOPICS, Data(train=path, format="label-studio"))]
    assert not isinstance(topics[1], BadRow)
    assert topics[1]["label"] == "a"


def test_notes_belong_to_their_patients() -> None:
    database = {"url": "sqlite:///x"}
    data = Data.model_validate({"train": "q.sql", "format": "omop", "database": database})
    assert data.group_by == "person_id"
    assert (
        Data.model_validate(data.model_dump() | {"group_by": "visit_occurrence_id"}).group_by == "visit_occurrence_id"
    )
