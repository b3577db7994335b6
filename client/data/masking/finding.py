"""What personal data stand in texts, by Microsoft's presidio and a spaCy model that is the one agreed on."""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from client.data.masking.options import Kind, Mask
from shared.errors import ConfigError

KIND_OF: dict[str, Kind] = {
    "PERSON": "name",
    "LOCATION": "place",
    "ADDRESS": "place",
    "DATE_TIME": "date",
    "PHONE_NUMBER": "number",
    "IBAN_CODE": "number",
    "CREDIT_CARD": "number",
    "IP_ADDRESS": "number",
    "NUMBER": "number",
    "EMAIL_ADDRESS": "contact",
    "URL": "contact",
}
"""By what presidio calls it."""
RULES: dict[str, str] = {
    "EMAIL_ADDRESS": r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b",
    "URL": r"\b(?:https?://|www\.)[^\s<>\"']+",
    "ADDRESS": r"\b\d{1,4}[a-z]?\s(?:[A-Z][\w'-]+\s){1,3}"
    r"(?:Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Dr|Square|Court)\b"
    r"|\b[A-Z\u00c4\u00d6\u00dc][\w-]*(?:stra\u00dfe|str\.|strasse|weg|platz|gasse|allee)\s\d{1,4}[a-z]?\b",
    "NUMBER": r"\b[A-Z]{0,3}[-/ ]?\d(?:[-./ ]?\d){4,}\b",
}
"""Found by their form alone; presidio's own rules for the first two ask the network for the list of public suffixes."""
SURE = {"NUMBER", "EMAIL_ADDRESS", "URL", "ADDRESS", "IBAN_CODE", "CREDIT_CARD", "IP_ADDRESS", "PHONE_NUMBER"}
"""What is found by its form, and so wins against what a model takes it for."""
DATE = re.compile(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}")


@dataclass(frozen=True)
class Found:
    """A piece of personal data."""

    kind: Kind
    start: int
    """Its first character."""
    end: int
    """The one after its last."""


Finder = Callable[[Iterable[str]], Iterable[list[Found]]]
"""Gives for each text what is found in it, in order, nothing overlapping."""


def open_finder(how: Mask) -> Finder:
    """What finds personal data; opened once for all tasks that say the same.

    Raises:
        ConfigError: presidio is missing, or the model is not there, or not the one that `sha256` names.
    """
    return _opened(how.model_dump_json())


@cache
def _opened(text: str) -> Finder:
    how = Mask.model_validate_json(text)
    if find_spec("presidio_analyzer") is None:
        raise ConfigError(
            "Expected presidio, which finds personal data, but it is missing: pip install 'collegium[mask]'."
        )
    check_model(how)
    presidio = import_module("presidio_analyzer")
    rules, engines = import_module("presidio_analyzer.predefined_recognizers"), presidio.nlp_engine
    engine = engines.SpacyNlpEngine(models=[{"lang_code": how.language, "model_name": str(how.model)}])
    engine.load()
    language = {"supported_language": how.language}
    own = {f"NUMBER {name}": pattern for name, pattern in how.patterns.items()}
    recognizers = [
        rules.SpacyRecognizer(**language),
        rules.PhoneRecognizer(**language),
        rules.IbanRecognizer(**language),
        rules.CreditCardRecognizer(**language),
        rules.DateRecognizer(**language),
        rules.IpRecognizer(**language),
        *(
            presidio.PatternRecognizer(
                name.partition(" ")[0],
                name=name,
                patterns=[presidio.Pattern(name, pattern, 0.9)],
                global_regex_flags=re.MULTILINE,
                **language,
            )
            for name, pattern in {**RULES, **own}.items()
        ),
    ]
    languages = [how.language]
    registry = presidio.RecognizerRegistry(recognizers=recognizers, supported_languages=languages)
    analyzer = presidio.AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=languages)
    batches = presidio.BatchAnalyzerEngine(analyzer)

    def find(texts: Iterable[str]) -> Iterable[list[Found]]:
        some = list(texts)
        results = batches.analyze_iterator(some, language=how.language, score_threshold=how.threshold)
        for text, found in zip(some, results, strict=True):
            spans = [(each.entity_type, each.start, each.end) for each in found if each.entity_type in KIND_OF]
            yield [each for each in apart(spans, text) if each.kind in how.kinds]

    return find


def apart(spans: Sequence[tuple[str, int, int]], text: str) -> list[Found]:
    """What was found, where two overlap the surer one and then the longer one, in order."""

    def weight(span: tuple[str, int, int]) -> tuple[bool, int]:
        name, start, end = span
        sure = name in SURE and not (name == "NUMBER" and DATE.fullmatch(text[start:end]))
        return not sure, start - end

    taken: list[Found] = []
    for name, start, end in sorted(spans, key=weight):
        if all(end <= each.start or start >= each.end for each in taken):
            taken.append(Found(KIND_OF[name], start, end))
    return sorted(taken, key=lambda each: each.start)


def check_model(how: Mask) -> None:
    """Raise ConfigError unless the model is there and the one that its hash names."""
    if not (how.model / "meta.json").is_file():
        raise ConfigError(f"Expected a spaCy model (a folder with meta.json) at {how.model}, but there is none.")
    if (found := fingerprint(how.model)) != how.sha256:
        raise ConfigError(
            f"Expected the spaCy model in {how.model} to have the sha256 {how.sha256[:12]}..., but it is {found}; if "
            "you trust this model, write that as `sha256` of the mask."
        )


def fingerprint(folder: Path) -> str:
    """SHA-256 of the names and contents of all files of a folder, in hex."""
    whole = hashlib.sha256()
    for file in sorted(each for each in folder.rglob("*") if each.is_file() and each.suffix != ".pyc"):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        whole.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return whole.hexdigest()
