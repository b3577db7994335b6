"""Rewording training texts at random in every epoch: synonyms, and for whole texts dropped and swapped words.

After EDA (Wei and Zou 2019, arXiv 1901.11196), whose synonyms are WordNet's; here they are the site's own. A task names
the fields of its records that may be reworded (`Task.free_texts`, `Task.free_words`), so that labels hold: words that
carry tags are replaced one for one, and tasks whose labels are places in a text are left alone.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from shared.config import Model
from shared.errors import ConfigError

if TYPE_CHECKING:
    from shared.tasks import Record, Task

Synonyms = Mapping[str, Sequence[str]]
"""Other words, by lower-case word."""
Share = Annotated[float, Field(ge=0, le=1)]
WORD = re.compile(r"^(\W*)(.*?)(\W*)$", re.DOTALL)
"""A word between the punctuation that clings to it."""


class Augmentation(Model):
    """`[data.TASK.augmentation]` of an institution: how its training texts of one task are reworded."""

    synonyms: Path | None = None
    """JSON file {"word": ["other word", ...]}; a word is found whatever its case and the punctuation around it."""
    replace: Share = 0.1
    """Chance that a word which has synonyms is replaced by one."""
    drop: Share = 0.0
    """Chance that a word is left out; whole texts only, and one word always stays."""
    swap: Share = 0.0
    """Swaps of two random words, as a share of the text's words; whole texts only."""

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.drop and not self.swap and (self.synonyms is None or not self.replace):
            raise ValueError("expected a file of synonyms, or a share of words to drop or swap")
        return self


@dataclass(frozen=True)
class Rewording:
    """An augmentation ready for use."""

    options: Augmentation
    synonyms: Synonyms
    texts: Sequence[str]
    """Fields with running text."""
    words: Sequence[str]
    """Fields with lists of words."""

    def __call__(self, record: "Record", rng: np.random.Generator) -> "Record":
        """A copy of the record, reworded."""
        changed: dict[str, str | list[str]] = {}
        for field in self.texts:
            changed[field] = reword_text(record[field], self.options, self.synonyms, rng)
        for field in self.words:
            changed[field] = replace_words(record[field], self.options, self.synonyms, rng)
        return {**record, **changed}


def open_rewording(options: Augmentation, task: "Task") -> Rewording:
    """Read the synonyms and check that the task can be reworded.

    Raises:
        ConfigError: The file is missing or not what it should be, or the task's labels would not survive.
    """
    where = f"[data.{task.name}.augmentation]"
    if not task.free_texts and not task.free_words:
        raise ConfigError(
            f"Expected {where} only for a task whose labels hold when a text is reworded, but those of {task.name} may "
            "not; remove the table."
        )
    if task.free_words and (options.drop or options.swap):
        raise ConfigError(
            f"Expected only synonyms in {where}, because the labels of {task.name} count words, but drop or swap came; "
            "remove them."
        )
    synonyms = read_synonyms(options.synonyms) if options.synonyms else {}
    if task.free_words:  # one word cannot become several
        synonyms = {word: [o for o in others if len(o.split()) == 1] for word, others in synonyms.items()}
    return Rewording(options, synonyms, task.free_texts, task.free_words)


def read_synonyms(path: Path) -> Synonyms:
    """Synonyms by lower-case word. Raises ConfigError if the file is missing or is not {word: [word, ...]}."""
    expected = f'Expected synonyms as {{"word": ["other", ...]}} in {path}'
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{expected}, but it could not be read: {error}; mend or name another file.") from error
    if not isinstance(found, dict) or not found:
        raise ConfigError(f"{expected}, but it holds no words; mend or name another file.")
    for word, others in found.items():
        if not isinstance(others, list) or not others or not all(isinstance(o, str) and o.strip() for o in others):
            raise ConfigError(f"{expected}, but {word!r} has no list of words; mend that entry.")
    return {word.lower(): tuple(others) for word, others in found.items()}


def reword_text(text: str, options: Augmentation, synonyms: Synonyms, rng: np.random.Generator) -> str:
    """Replace, then swap, then drop words of a running text; white space becomes single spaces."""
    words = [_replaced(word, options.replace, synonyms, rng) for word in text.split()]
    for _ in range(round(options.swap * len(words))):
        i, j = rng.integers(len(words), size=2)
        words[i], words[j] = words[j], words[i]
    if options.drop:
        kept = rng.random(len(words)) >= options.drop
        kept[rng.integers(len(words))] |= not kept.any()
        words = [word for word, keep in zip(words, kept, strict=True) if keep]
    return " ".join(words)


def replace_words(
    words: Sequence[str], options: Augmentation, synonyms: Synonyms, rng: np.random.Generator
) -> list[str]:
    """Replace words one for one."""
    return [_replaced(word, options.replace, synonyms, rng) for word in words]


def _replaced(word: str, chance: float, synonyms: Synonyms, rng: np.random.Generator) -> str:
    match = WORD.match(word)
    assert match is not None
    before, core, after = match.groups()
    others = synonyms.get(core.lower())
    if not others or rng.random() >= chance:
        return word
    other = others[int(rng.integers(len(others)))]
    return before + (other[:1].upper() + other[1:] if core[:1].isupper() else other) + after
