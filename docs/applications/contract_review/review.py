"""Reads a folder of contracts and writes one table: every clause with its kind, parties and dates.

python review.py BUNDLE contracts --out clauses.csv
"""

import argparse
import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

END = re.compile(r"(?<=[.;])\s+(?=[A-Z0-9(])")
"""Where one sentence ends and the next begins."""
COLUMNS = ("contract", "clause", "kind", "score", "parties", "dates", "text")


def clauses(folder: Path) -> Iterator[dict[str, Any]]:
    """The sentences of every text file, with the name of their contract and their number."""
    for file in sorted(folder.glob("*.txt")):
        text = " ".join(file.read_text(encoding="utf-8").split())
        for number, sentence in enumerate(END.split(text), start=1):
            if sentence:
                yield {"contract": file.stem, "clause": number, "text": sentence}


def review(bundle: str, folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each sentence."""
    command = [sys.executable, "-m", "collegium", "predict", bundle, "--file", "-", "--with-records"]
    command += ["--task", "clauses", "--task", "contract_entities"]
    lines = "".join(json.dumps(clause) + "\n" for clause in clauses(folder))
    done = subprocess.run(command, input=lines, stdout=subprocess.PIPE, text=True, check=True)
    for row in map(json.loads, done.stdout.splitlines()):
        found = row["contract_entities"]
        yield {
            "contract": row["contract"],
            "clause": row["clause"],
            "kind": row["clauses"]["label"],
            "score": round(row["clauses"]["score"], 3),
            "parties": "; ".join(entity["word"] for entity in found if entity["entity_group"] == "Party"),
            "dates": "; ".join(entity["word"] for entity in found if entity["entity_group"] == "Date"),
            "text": row["text"],
        }


def main() -> None:
    """Write the table, and say how many clauses of each kind there are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("contracts", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows = list(review(given.bundle, given.contracts))
    with given.out.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)
    kinds = [row["kind"] for row in rows]
    print(json.dumps({kind: kinds.count(kind) for kind in sorted(set(kinds))}))


if __name__ == "__main__":
    main()
