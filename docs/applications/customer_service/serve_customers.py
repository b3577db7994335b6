"""Routes a customer's message, finds who and what it names, and suggests the stored answer.

python serve_customers.py BUNDLE messages.jsonl --knowledge knowledge.json
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TEAMS = {
    "payment": "accounts",
    "termination": "contracts",
    "liability": "claims",
    "confidentiality": "data protection",
    "governing_law": "legal",
}
"""Who answers a message, by the label of the task `clauses`."""
SURE = 0.5
"""Below this score a person decides."""


def ask(bundle: str, records: Sequence[dict[str, Any]], *tasks: str) -> list[dict[str, Any]]:
    """The bundle's answers to records, by task."""
    command = [sys.executable, "-m", "collegium", "predict", bundle, "--file", "-"]
    command += [word for task in tasks for word in ("--task", task)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    done = subprocess.run(command, input=lines, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def suggestions(bundle: str, messages: Sequence[str], knowledge: dict[str, str]) -> list[dict[str, Any]]:
    """Of each message, the article whose passage answers it best, and the passage."""
    pairs = [(message, title) for message in messages for title in knowledge]
    asked = [{"question": message, "context": knowledge[title]} for message, title in pairs]
    best: dict[str, dict[str, Any]] = {}
    for (message, title), found in zip(pairs, ask(bundle, asked, "notes_qa"), strict=True):
        answer = found["notes_qa"]
        if answer["answer"] and answer["score"] > best.get(message, {"score": 0.0})["score"]:
            best[message] = {"article": title, "passage": answer["answer"], "score": round(answer["score"], 3)}
    return [best.get(message, {}) for message in messages]


def main() -> None:
    """Print one JSON object a message."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("messages", type=Path)
    parser.add_argument("--knowledge", type=Path, required=True, help="A JSON object of articles: title and text.")
    given = parser.parse_args()
    messages = [json.loads(line)["text"] for line in given.messages.read_text(encoding="utf-8").splitlines()]
    knowledge = json.loads(given.knowledge.read_text(encoding="utf-8"))
    found = ask(given.bundle, [{"text": text} for text in messages], "clauses", "company_entities", "contract_entities")
    for text, answers, stored in zip(messages, found, suggestions(given.bundle, messages, knowledge), strict=True):
        topic = answers["clauses"]
        named = [entity for task in ("company_entities", "contract_entities") for entity in answers[task]]
        shown = {
            "message": text,
            "team": TEAMS[topic["label"]] if topic["score"] >= SURE else "front desk",
            "topic": topic["label"],
            "names": sorted({entity["word"] for entity in named}),
            "suggestion": stored,
        }
        print(json.dumps(shown, ensure_ascii=False))


if __name__ == "__main__":
    main()
