"""Rewording: what is replaced, dropped and swapped, and that labels hold."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from client.data.augmentation import Augmentation, open_rewording, read_synonyms, replace_words, reword_text
from client.institution import Institution
from client.opening import build_site
from client.privacy.randomness import Chance
from client.site import Site
from client.train import trainer
from shared.errors import ConfigError
from shared.tasks import Example, build_task
from shared.tasks.token_classification import TokenClassificationSpec

MakeSite = Callable[..., Site]
SYNONYMS = {"buyer": ["purchaser"], "pays": ["remits", "settles up"], "aspirin": ["acetylsalicylic acid", "ASA"]}
ALWAYS = Augmentation(synonyms=Path("unused"), replace=1.0)


@pytest.fixture
def synonyms(tmp_path: Path) -> Path:
    path = tmp_path / "synonyms.json"
    path.write_text(json.dumps(SYNONYMS), encoding="utf-8")
    return path


def test_words_are_found_in_any_case_and_punctuation() -> None:
    rng = np.random.default_rng(0)
    words = {"buyer": ["purchaser"]}
    assert reword_text("(Buyer), the  BUYER's\nbuyer; buyers", ALWAYS, words, rng) == (
        "(Purchaser), the BUYER's purchaser; buyers"
    )


def test_replacement_is_as_frequent_as_asked_and_uses_every_synonym() -> None:
    options = ALWAYS.model_copy(update={"replace": 0.3})
    words = reword_text("pays " * 4000, options, {"pays": ["remits", "settles"]}, np.random.default_rng(0)).split()
    found = Counter(words)
    assert found["pays"] / 4000 == pytest.approx(0.7, abs=0.03)
    assert found["remits"] / 4000 == pytest.approx(0.15, abs=0.03)


def test_swaps_keep_the_words_and_drops_leave_some() -> None:
    text = " ".join(f"w{n}" for n in range(1000))
    rng = np.random.default_rng(0)
    swapped = reword_text(text, Augmentation(swap=0.1), {}, rng).split()
    assert sorted(swapped) == sorted(text.split())
    assert 150 < sum(a != b for a, b in zip(swapped, text.split(), strict=True)) <= 200
    dropped = reword_text(text, Augmentation(drop=0.2), {}, rng).split()
    assert len(dropped) == pytest.approx(800, abs=50)
    assert dropped == sorted(dropped, key=lambda word: int(word[1:]))
    assert {len(reword_text("all gone", Augmentation(drop=1.0), {}, rng).split()) for _ in range(20)} == {1}


def test_a_list_of_words_keeps_its_length() -> None:
    found = replace_words(["Buyer", "pays", "."], ALWAYS, {"buyer": ["purchaser"]}, np.random.default_rng(0))
    assert found == ["Purchaser", "pays", "."]


def test_words_with_tags_are_replaced_one_for_one(synonyms: Path) -> None:
    task = build_task("entities", TokenClassificationSpec(type="token-classification", types=("Drug",)))
    rewording = open_rewording(Augmentation(synonyms=synonyms, replace=1.0), task)
    record = {"tokens": ["She", "pays", "aspirin"], "tags": ["O", "O", "B-Drug"]}
    for seed in range(10):
        assert rewording(record, np.random.default_rng(seed)) == record | {"tokens": ["She", "remits", "ASA"]}
    assert record["tokens"] == ["She", "pays", "aspirin"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "expected a file of synonyms"),
        ({"synonyms": "x.json", "replace": 0.0}, "expected a file of synonyms"),
        ({"drop": 1.5}, "less than or equal to 1"),
        ({"insert": 0.1}, "Extra inputs"),
    ],
)
def test_an_augmentation_that_does_nothing_is_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Augmentation.model_validate(values)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"a": "b"}', '{"a": []}', '{"a": [1]}', '{"a": [" "]}', b"\xff", None]
)
def test_a_wrong_file_of_synonyms_is_one_sentence(tmp_path: Path, content: str | bytes | None) -> None:
    path = tmp_path / "synonyms.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=r"Expected synonyms as .*synonyms\.json"):
        read_synonyms(path)


def augmented(site: Site, task: str, options: Augmentation) -> Site:
    """The site with one task's training texts reworded."""
    return replace(
        site, holdings=replace(site.holdings, rewordings={task: open_rewording(options, site.model.tasks[task])})
    )


def all_from(seed: int) -> Chance:
    """One generator for all records, as where there is no [privacy]."""
    rng = np.random.default_rng(seed)
    return lambda task, record: rng


def test_tasks_whose_labels_are_places_refuse(make_site: MakeSite) -> None:
    site = make_site("notes_qa", "entities")
    with pytest.raises(ConfigError, match=r"\[data\.notes_qa\.augmentation\] only for a task whose labels hold"):
        augmented(site, "notes_qa", Augmentation(drop=0.1))
    with pytest.raises(ConfigError, match="labels of entities count words"):
        augmented(site, "entities", Augmentation(swap=0.1))


def test_only_the_training_texts_of_that_task_change_and_anew_each_time(make_site: MakeSite, synonyms: Path) -> None:
    plain = make_site("entities", "notes_qa")
    words = synonyms.with_name("drugs.json")
    words.write_text(json.dumps({"daily": ["weekly", "hourly"], "takes": ["swallows"]}), encoding="utf-8")
    site = augmented(plain, "entities", Augmentation(synonyms=words, replace=0.5))
    draw = [site.draw_examples(all_from(seed)) for seed in (1, 2, 1)]
    assert [[e.input_ids for e in examples] for examples in draw[::2]] == [[e.input_ids for e in draw[0]]] * 2
    assert draw[0] != draw[1]
    for examples in draw:
        assert [(e.task, e.record) for e in examples] == [(e.task, e.record) for e in plain.examples("train")]
        for new, old in zip(examples, plain.examples("train"), strict=True):
            assert new.task == "entities" or new == old
            tags = [tag for tag in new.target.get("tags", []) if tag >= 0]
            assert tags == [tag for tag in old.target.get("tags", []) if tag >= 0]
    assert site.examples("test") == plain.examples("test")


def test_whole_texts_are_reworded_in_every_way(make_site: MakeSite, synonyms: Path) -> None:
    site = augmented(make_site("clauses"), "clauses", Augmentation(synonyms=synonyms, replace=1.0, drop=0.2, swap=0.2))
    for old in site.records("clauses", "train"):
        new = site.holdings.rewordings["clauses"](old, np.random.default_rng(1))
        assert new["label"] == old["label"]
        assert "buyer" not in new["text"]
        assert new["text"] != old["text"]
    examples = site.draw_examples(all_from(1))
    assert [e.target for e in examples] == [e.target for e in site.examples("train")]


def test_training_sees_each_epochs_own_texts(make_site: MakeSite) -> None:
    site = make_site("clauses", training={"epochs_per_round": 3})
    seen: list[int] = []

    def draw(chance: Chance) -> list[Example]:
        seen.append(int(chance("clauses", 0).integers(2**31)))
        return site.examples("train")[: 2 * len(seen)]

    outcome = trainer.train(site.model, site.examples("train"), site.federation.training, seed=1, augment=draw)
    assert len(set(seen)) == 3
    assert set(outcome.losses) == {"clauses"}


def test_an_institution_file_turns_it_on(make_site: MakeSite, synonyms: Path, tmp_path: Path) -> None:
    site = make_site("entities")
    data = {"train": str(tmp_path / "hospital" / "entities.train.jsonl"), "augmentation": {"synonyms": str(synonyms)}}
    institution = Institution.model_validate({"name": "hospital", "data": {"entities": data}})
    opened = build_site(institution, site.federation, site.model)
    assert opened.holdings.rewordings["entities"].synonyms["aspirin"] == ["ASA"]
