"""Make the demonstration corpora from the hand-written sources beside this file.

    python -m simulations.samples.author          rewrite the JSON Lines files
    python -m simulations.samples.author --check  exit with 1 if a file differs from what this makes

The same sources give the same bytes on every machine: order comes from SHA-256 of the seed, not from a generator.
"""

import argparse
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from simulations.samples import (
    INSTITUTIONS,
    SPLITS,
    _bank_clauses,
    _bank_entities,
    _bank_sentiment,
    _hospital_entities,
    _hospital_notes,
    _law_firm_clauses,
    _law_firm_entities,
    sample_path,
)

SEED = 7
ENTITY_SENTENCES = {
    "hospital": {"train": 140, "validation": 24, "test": 46},
    "law_firm": {"train": 140, "validation": 24, "test": 46},
    "bank": {"train": 110, "validation": 20, "test": 42},
}
DATE_FORMATS = ("{d} {month} {y}", "{month} {d}, {y}", "{y}-{m:02}-{d:02}", "{d} {month} {y}", "{d:02}/{m:02}/{y}")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
FIRST_DAY, DAYS = date(2009, 1, 1), 5800

Record = dict[str, Any]
Draw = Callable[[list[str]], dict[str, str]]


def lines(block: str) -> list[str]:
    """Split a source block into its non-empty lines."""
    return [line for line in block.splitlines() if line.strip()]


def shuffled(items: Iterable[str], salt: str) -> list[str]:
    """Order strings by the SHA-256 of seed, salt and string."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{SEED}/{salt}/{item}".encode()).digest())


def drawer(institution: str, split: str) -> Draw:
    """Return a function that draws names of this split for the slots of one sentence."""
    return {"hospital": treatments, "law_firm": contracts, "bank": markets}[institution](split)


def treatments(split: str) -> Draw:
    """Draw diseases, each with a drug that treats it."""
    pairs = itertools.cycle(shuffled(lines(_hospital_entities.PAIRS[split]), split))

    def draw(slots: list[str]) -> dict[str, str]:
        names: dict[str, str] = {}
        for number in sorted({slot.removeprefix("disease").removeprefix("drug") for slot in slots}):
            names["disease" + number], names["drug" + number] = next(pairs).split(" | ")
        return names

    return draw


def contracts(split: str) -> Draw:
    """Draw parties, and calendar days that belong to this split alone, in changing formats, in order of time."""
    parties = itertools.cycle(shuffled(lines(_law_firm_entities.PARTIES[split]), split))
    days = shuffled((str(FIRST_DAY + timedelta(days=n)) for n in range(DAYS)), "days")
    own, formats = iter(days[SPLITS.index(split) :: len(SPLITS)]), itertools.cycle(DATE_FORMATS)

    def draw(slots: list[str]) -> dict[str, str]:
        when = sorted(slot for slot in slots if slot.startswith("date"))
        chosen = sorted(date.fromisoformat(next(own)) for _ in when)
        written = {slot: written_date(day, next(formats)) for slot, day in zip(when, chosen, strict=True)}
        return written | {slot: next(parties) for slot in slots if slot not in written}

    return draw


def written_date(day: date, form: str) -> str:
    """Write a calendar day, whatever the locale of the machine."""
    return form.format(d=day.day, m=day.month, month=MONTHS[day.month - 1], y=day.year)


def markets(split: str) -> Draw:
    """Draw companies."""
    companies = itertools.cycle(shuffled(lines(_bank_entities.COMPANIES[split]), split))
    return lambda slots: {slot: next(companies) for slot in slots}


def pieces(template: str, names: dict[str, str]) -> list[tuple[str, str]]:
    """Fill a template: (text, entity type or empty) for every piece, the first letter in upper case."""
    parts = re.split(r"\{(\w+)\}", template)
    out = [(names[part], part.rstrip("23").capitalize()) if i % 2 else (part, "") for i, part in enumerate(parts)]
    out = [piece for piece in out if piece[0]]
    first, kind = out[0]
    return [(first[0].upper() + first[1:], kind), *out[1:]]


def slots_of(template: str) -> list[str]:
    """List the slots of a template, each once."""
    return list(dict.fromkeys(re.findall(r"\{(\w+)\}", template)))


def tokenise(text: str) -> list[str]:
    """Split text into words, numbers and single punctuation marks."""
    return re.findall(r"\w+(?:[-'./]\w+)*'?|[^\w\s]", text)


def tagged(template: str, names: dict[str, str]) -> Record:
    """Fill a template and tag its tokens: B- and I- for the slots' types, O elsewhere."""
    record: Record = {"tokens": [], "tags": []}
    for text, kind in pieces(template, names):
        tokens = tokenise(text)
        record["tokens"] += tokens
        record["tags"] += [f"{'I' if i else 'B'}-{kind}" if kind else "O" for i in range(len(tokens))]
    return record


def entities(institution: str, split: str) -> list[Record]:
    """Make token-classification records: templates in turn with new names, and sentences without entities."""
    source = {"hospital": _hospital_entities, "law_firm": _law_firm_entities, "bank": _bank_entities}[institution]
    without = lines(source.SENTENCES[f"{split}_without"])
    templates = shuffled(lines(source.SENTENCES[split]), split)
    draw = drawer(institution, split)
    filled = itertools.islice(itertools.cycle(templates), ENTITY_SENTENCES[institution][split] - len(without))
    records = [tagged(sentence, draw(slots_of(sentence))) for sentence in (*filled, *without)]
    return in_order(records, f"{institution}/{split}")


def classes(source: dict[str, str], institution: str, split: str) -> list[Record]:
    """Make text-classification records: one per hand-written line, names filled in."""
    draw = markets(split)
    records = [
        {"text": "".join(text for text, _ in pieces(line, draw(slots_of(line)))), "label": label}
        for label, block in source.items()
        for line in lines(block)
    ]
    return in_order(records, f"{institution}/{split}")


def questions(split: str) -> list[Record]:
    """Make question-answering records from the notes; an answer must occur exactly once in its note."""
    records: list[Record] = []
    for block in _hospital_notes.NOTES[split].strip().split("\n\n"):
        context, *asked = lines(block)
        for line in asked:
            question, answer = (part.strip() for part in line.removeprefix("?").split("=", 1))
            if answer and context.count(answer) != 1:
                raise SystemExit(f"An answer must stand once in its note, {answer!r} does not: {context[:60]}")
            answers = [{"text": answer, "start": context.index(answer)}] if answer else []
            key = f"{split}-{len(records) + 1:03}"
            records.append({"id": key, "context": context, "question": question, "answers": answers})
    return records


def in_order(records: list[Record], salt: str) -> list[Record]:
    """Shuffle records, the same way on every machine."""
    return [json.loads(row) for row in shuffled((dump(record) for record in records), salt)]


def dump(record: Record) -> str:
    """Write one record as one line of JSON."""
    return json.dumps(record, ensure_ascii=False)


def corpus(institution: str, task: str, split: str) -> list[Record]:
    """Make the records of one institution, task and split."""
    if task == "entities":
        return entities(institution, split)
    if task == "notes_qa":
        return questions(split)
    source = {
        ("law_firm", "clauses"): _law_firm_clauses,
        ("bank", "clauses"): _bank_clauses,
        ("bank", "sentiment"): _bank_sentiment,
    }[institution, task]
    return classes(getattr(source, split.upper()), institution, split)


def files() -> dict[Path, str]:
    """Make the text of every corpus file, by path."""
    return {
        sample_path(institution, task, split): "".join(dump(row) + "\n" for row in corpus(institution, task, split))
        for institution, tasks in INSTITUTIONS.items()
        for task in tasks
        for split in SPLITS
    }


def main(arguments: list[str] | None = None) -> int:
    """Write the corpora, or with `--check` compare them; return the exit code."""
    parser = argparse.ArgumentParser(description="Make the demonstration corpora from their hand-written sources.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file differs")
    check = parser.parse_args(arguments).check
    made = files()
    for path, text in made.items():
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        elif not path.is_file() or path.read_bytes() != text.encode():
            print(f"{path} is not what its sources make: run python -m simulations.samples.author.", file=sys.stderr)
            return 1
    print(f"{len(made)} files {'agree with their sources' if check else 'written'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
