"""The demonstration corpora: a hospital, a law firm and a bank, authored for this project.

One file per institution, task and split; README.md describes them, `author` makes them.
"""

from pathlib import Path

from shared.errors import ConfigError

SAMPLES = Path(__file__).parent
"""The folder that holds one subfolder per institution."""

INSTITUTIONS = {
    "hospital": ("entities", "notes_qa"),
    "law_firm": ("clauses", "entities"),
    "bank": ("sentiment", "entities", "clauses"),
}
"""The tasks that each institution holds."""

SPLITS = ("train", "validation", "test")
"""The splits of every task."""


def sample_path(institution: str, task: str, split: str) -> Path:
    """Find the file of one institution, task and split.

    Args:
        institution: A key of `INSTITUTIONS`.
        task: A task that this institution holds.
        split: One of `SPLITS`.

    Returns:
        The path of a JSON Lines file.

    Raises:
        ConfigError: If there is no such institution, task at this institution, or split.
    """
    for kind, name, known in (
        ("institution", institution, tuple(INSTITUTIONS)),
        (f"task of {institution}", task, INSTITUTIONS.get(institution, ())),
        ("split", split, SPLITS),
    ):
        if name not in known:
            raise ConfigError(f"The samples know the {kind} {', '.join(known)}, not {name!r}: name one of those.")
    return SAMPLES / institution / f"{task}.{split}.jsonl"
