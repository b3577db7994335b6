"""Files as people have them: each folder of small inputs is read, or refused in words that say what to do."""

import os
import re
from pathlib import Path

import pytest

from client.data.loading import check_rows, paths_of
from client.data.sources import BadRow
from client.institution import load_institution
from shared.errors import CollegiumError
from shared.federation import load_federation
from shared.tasks import build_task

CASES = Path(os.environ.get("COLLEGIUM_CASES", Path(__file__).parents[2] / "shared" / "cases"))
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"no example files in {CASES}")


def troubles(folder: Path) -> list[str]:
    """What is wrong with an institution's files: the error of a whole file, or each bad row."""
    try:
        institution = load_institution(folder / "institution.toml")
        federation = load_federation(institution.federation)
        tasks = {name: build_task(name, spec) for name, spec in federation.tasks.items()}
        return [
            f"{path.name}, line {number}: {row.what}"
            for name, source in institution.data.items()
            for path in paths_of(source).values()
            for number, row in check_rows(path, tasks[name], source)
            if isinstance(row, BadRow)
        ]
    except CollegiumError as error:
        return [str(error)]


READ = """
csv-float-labels
csv-bracket-text csv-newlines csv-deep-brackets csv-huge-number jsonl-int-labels jsonl-int-labels-renamed
jsonl-bool-labels multi-ints multi-csv-ints multi-empty odd-labels one-class one-record
parquet-null-optional parquet-dictionary summary-csv-query relation-squad-null toml-bom
"""


@pytest.mark.parametrize("case", READ.split())
def test_it_is_read(case: str) -> None:
    assert troubles(CASES / case) == []


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("csv-half-emoji-in-list", r"train.csv, line \d+: expected a list as JSON in 'tokens'.* half a character"),
        ("csv-python-lists", r"expected a list as JSON in 'tokens', .* a Python list came, .* json\.dumps"),
        ("csv-semicolon", "columns between commas, but semicolons seem to stand between them"),
        ("csv-semicolon-commas", "columns between commas, but semicolons seem to stand between them"),
        ("csv-header-spaces", "its column is called 'Text', so rename it to 'text'"),
        ("csv-utf16", "UTF-16"),
        ("csv-latin1", "Windows-1252"),
        ("json-array", "a list begins; write one object per line"),
        ("json-array-oneline", "a list came; write one object per line"),
        ("ner-bioes", 'add scheme = "BIOES"'),
        ("ner-underscore", "tag 'B_Disease' at token 1 is not among the federation's"),
        ("ner-int-tags", "tag 1 at token 0 is not among the federation's"),
        ("label-null", "label"),
        ("ner-i-start", 'add scheme = "IOB"'),
        ("qa-utf16-offsets", "expected answer '12 euros' at character 20 of the context"),
        ("deadline-inf", "rounds.deadline_seconds: .*finite number, not inf"),
        ("dp-eps-inf", "privacy.epsilon: .*finite number, not inf"),
        ("lr-inf", "training.learning_rate: .*finite number, not inf"),
        ("lr-nan", "training.learning_rate: .*finite number, not nan"),
        ("policy-inf", "policy.max_norm: .*finite number, not inf"),
    ],
)
def test_it_is_refused_in_words_that_help(case: str, said: str) -> None:
    found = troubles(CASES / case)
    assert found
    assert re.search(said, found[0]), found
