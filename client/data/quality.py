"""Signs in a text of a wrong encoding or a broken export, from which a model would learn noise."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ftfy import fix_encoding
from ftfy.badness import is_bad

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""Control characters other than tab and line ends."""
NOT_LETTERS = re.compile(r"[\W\d_]+")
FEWEST_LETTERS = 0.3
"""Share of a text's characters, white space apart, that are letters in all but tables, codes and debris."""


@dataclass(frozen=True)
class Trouble:
    """One kind of trouble with a text."""

    found: Callable[[str], bool]
    advice: str
    """What to do about it, as a clause in the imperative."""
    tolerated: float = 0.0
    """Share of the records that may have it before it is worth a warning."""


def _has_few_letters(text: str) -> bool:
    seen = len("".join(text.split()))
    return len(NOT_LETTERS.sub("", text)) < FEWEST_LETTERS * seen or not seen


TROUBLES = {
    "control characters": Trouble(
        lambda text: CONTROL.search(text) is not None,
        "remove them where the text is exported; they often come from PDF files or a wrong encoding",
    ),
    "replacement characters": Trouble(
        lambda text: "\ufffd" in text,
        "export the text from its source again: the characters that U+FFFD replaced are lost in this file",
    ),
    "mojibake": Trouble(
        lambda text: is_bad(text) and fix_encoding(text) != text,
        "export the text again as UTF-8, or repair it with ftfy: it was read in another encoding than its own",
    ),
    "few letters": Trouble(
        _has_few_letters,
        "see whether they are tables, codes or empty cells, and leave out what is no running text",
        tolerated=0.01,
    ),
}
"""What is looked for in every text, by name."""


def troubles_of(texts: Sequence[str]) -> list[str]:
    """The names in `TROUBLES` of what is wrong with the texts of a record, read as one."""
    text = "\n".join(texts)
    return [name for name, trouble in TROUBLES.items() if trouble.found(text)]
