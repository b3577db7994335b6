"""Follows headlines: sentiment and companies, an index of each company over its last ones, and an alert where it falls.

    collegium predict BUNDLE --task sentiment --task company_entities --file - --with-records < headlines.jsonl \
        | python monitor.py

Reads what `collegium predict` writes, as it comes: put `tail -f` in the place of a file to follow a feed.
"""

import argparse
import json
import sys
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import Any

VALUES = {"positive": 1.0, "neutral": 0.0, "negative": -1.0}


def opinion(sentiment: dict[str, Any]) -> float:
    """Between -1 and 1: the label's value, by how sure it is."""
    return VALUES[sentiment["label"]] * float(sentiment["score"])


def monitor(lines: Iterable[str], window: int, alert: float) -> Iterator[dict[str, Any]]:
    """For each headline that names a company: its opinion, the company's index, and whether that has just fallen.

    Args:
        lines: Answers to headlines.
        window: Of how many headlines the index is the mean.
        alert: An index below is an alert, once until it has risen again.
    """
    seen: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=window))
    low: set[str] = set()
    for line in lines:
        row = json.loads(line)
        for company in sorted({entity["word"] for entity in row.get("company_entities", ())}):
            values = seen[company]
            values.append(opinion(row["sentiment"]))
            index = sum(values) / len(values)
            fallen = index < alert and company not in low
            (low.add if index < alert else low.discard)(company)
            yield {
                "company": company,
                "opinion": round(values[-1], 3),
                "index": round(index, 3),
                "of": len(values),
                "alert": fallen,
                "headline": row.get("text", ""),
            }


def main() -> None:
    """Print one JSON object a company and headline; alerts go to standard error as well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--window", type=int, default=5, help="Headlines of an index.")
    parser.add_argument("--alert", type=float, default=-0.2, help="An index below is an alert.")
    given = parser.parse_args()
    for row in monitor(sys.stdin, given.window, given.alert):
        print(json.dumps(row, ensure_ascii=False), flush=True)
        if row["alert"]:
            print(f"ALERT: opinion of {row['company']} is {row['index']:+.2f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
