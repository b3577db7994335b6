"""A source that changes is named, between two rounds and between two starts; one that is only touched is not."""

import logging
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from client.data.changes import FILE, Sources, contents_of, open_sources
from client.data.loading import TaskData, read_data
from client.data.masking.finding import Found
from client.data.masking.records import mask_records
from client.institution import Data
from client.service.daemon import NEWS
from shared.tasks import build_task
from shared.tasks.text_classification import TextClassificationSpec
from shared.watching.logs import TEXT

TASK = build_task("topics", TextClassificationSpec(type="text-classification", labels=("a", "b")))
TASKS = {"topics": TASK}
KEY = bytes(32)


def opened(data: Data, state: Path) -> Sources:
    rows = read_data({"topics": data}, TASKS, KEY, private=False)["topics"]
    loaded = {split: TaskData(tuple(record for _, record in each), ()) for split, each in rows.items()}
    return open_sources({"topics": data}, TASKS, KEY, private=False, loaded={"topics": loaded}, state=state)


def write(path: Path, *rows: tuple[str, str]) -> None:
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))


def test_a_file_that_changes_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(file := tmp_path / "a.csv", ("x", "a"), ("y", "b"))
    data = Data(train=file, validation=file)
    sources = opened(data, tmp_path / "state")
    assert sources.look() == []
    os.utime(file, (1, 1))
    assert sources.look() == [], "only touched"
    write(file, ("y", "b"), ("X!", "a"))
    assert sources.look() == [], "the same records in another order and spelling"
    write(file, ("x", "b"), ("y", "b"))
    with caplog.at_level(logging.WARNING):
        (said,) = sources.look()
    assert said.startswith(f"The train, validation records of task topics in {file} have changed")
    assert caplog.messages == [said]
    assert f"{NEWS}{said}" in logging.Formatter(TEXT).format(caplog.records[0]), (
        "the daemon passes it on to its terminal"
    )
    os.utime(file, (2, 2))
    assert sources.look() == [], "told already"
    write(file, ("x", "a patient's name"))
    (said,) = sources.look()
    assert "cannot be read any more, and those read before stay in use" in said
    assert "patient" not in said, "a log quotes no record"


def test_a_change_between_two_starts_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(file := tmp_path / "a.csv", ("x", "a"), ("y", "b"))
    data, state = Data(train=file, validation=file), tmp_path / "state"
    opened(data, state)
    opened(data, state)
    assert caplog.messages == []
    assert (state / FILE).is_file()
    write(file, ("x", "a"))
    opened(data, state)
    assert caplog.messages == [f"The records of task topics in {file} have changed since this site last started."]


def test_a_database_is_asked_every_time(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.sqlite") as made:
        made.execute("CREATE TABLE a (text, label)")
        made.execute("INSERT INTO a VALUES ('x', 'a')")
    (query := tmp_path / "q.sql").write_text("SELECT * FROM a")
    database: Any = {"url": f"sqlite:///{tmp_path}/a.sqlite"}
    data = Data.model_validate({"train": query, "validation": query, "database": database})
    sources = opened(data, tmp_path / "state")
    assert sources.look() == []
    made.execute("UPDATE a SET label = 'b'")
    made.commit()
    made.close()
    assert len(sources.look()) == 1
    assert sources.look() == []


def test_what_is_masked_has_the_same_contents() -> None:
    records = [{"text": "Anna left.", "label": "a"}, {"text": "Bo left.", "label": "b"}]
    masked = mask_records(records, ["p", "q"], TASK, lambda texts: ([Found("name", 0, 2)] for _ in texts), KEY)
    assert masked != records
    assert contents_of(masked, TASK, None) == contents_of(records[::-1], TASK, None)
