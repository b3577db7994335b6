"""A chain of entries: each names the SHA-256 of the one before, so that the last one, the head, stands for all.

The receipts of what left and the privacy ledger are both one; each spells its entries in its own way.
"""

import hashlib
from typing import NamedTuple, Self


class Head(NamedTuple):
    """The last entry of a chain at some time; whoever remembers it can tell whether the chain still contains it."""

    sequence: int
    """The number of the entry."""
    sha256: str

    def __str__(self) -> str:
        return f"{self.sequence}:{self.sha256}"

    def follow(self, content: bytes) -> Self:
        """The head once an entry has been added, whose content names this one."""
        return type(self)(self.sequence + 1, hashlib.sha256(content).hexdigest())
