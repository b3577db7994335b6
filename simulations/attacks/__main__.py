"""`python -m simulations.attacks`: try every attack, and print the table of docs/security.md."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from simulations.attacks import Attack, Outcome, attacks

BEGIN, END = "<!-- attacks: begin -->", "<!-- attacks: end -->"
"""Between these lines of docs/security.md stands the table."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the attacks; the exit code is 1 if one of them succeeded."""
    parser = argparse.ArgumentParser(prog="python -m simulations.attacks", description=__doc__)
    parser.add_argument("--only", metavar="WORDS", default="", help="only attacks whose name contains these words")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this page as well")
    options = parser.parse_args(arguments)
    done = []
    for attack in attacks():
        if options.only not in attack.name:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            done.append((attack, attack.run(Path(folder))))
        print(f"{attack.name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    print(_json(done) if options.json else table(done))
    if options.write:
        options.write.write_text(with_table(options.write.read_text(encoding="utf-8"), table(done)), encoding="utf-8")
    return int(any(outcome.succeeded for _, outcome in done))


def table(done: Sequence[tuple[Attack, Outcome]]) -> str:
    """Markdown: attack, by whom, attempts, outcome."""
    lines = ["| attack | by | attempts | outcome |", "|---|---|---:|---|"]
    for attack, outcome in done:
        result = f"**{outcome.succeeded} succeeded**" if outcome.succeeded else "none succeeded"
        note = f"; {outcome.note}" if outcome.note else ""
        lines.append(f"| {attack.name} | {attack.by} | {outcome.attempts:,} | {result}{note} |")
    return "\n".join(lines)


def with_table(page: str, table: str) -> str:
    """The page with this table between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def _json(done: Sequence[tuple[Attack, Outcome]]) -> str:
    rows = [
        {"attack": attack.name, "by": attack.by, "promise": attack.promise, **asdict(outcome)}
        for attack, outcome in done
    ]
    return json.dumps(rows, indent=2)


if __name__ == "__main__":
    sys.exit(main())
