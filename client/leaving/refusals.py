"""What the coordinator gets where a site will not or cannot answer: the kind, and a sentence without secrets."""

import logging
import os
from pathlib import Path

from shared.errors import (
    BudgetError,
    CollegiumError,
    DataError,
    HeldError,
    PolicyError,
    ProtocolError,
    RefusalError,
    loggable,
    plain,
)
from shared.protocol import Refusal, RefusalKind

log = logging.getLogger("collegium.client")
KINDS: tuple[tuple[type[CollegiumError], RefusalKind], ...] = (
    (PolicyError, "policy"),
    (HeldError, "held"),
    (BudgetError, "budget"),
    (RefusalError, "agreement"),
    (ProtocolError, "request"),
    (DataError, "data"),
)
"""What a refusal is called; another error is a failure."""
UNSAID = "This site could not answer; its own log says why."
"""The reason of a failure: an error that is no answer to the coordinator may quote a path or a record."""


def refusal(error: Exception, *, institution: str, state: Path | None) -> Refusal:
    """The refusal that an error becomes; the site's own log has all of it but text of records.

    Args:
        error: Why there is no other answer.
        institution: Whose answer it is.
        state: The site's state folder, which a reason does not name.
    """
    log.error("refused: %s", loggable(error), exc_info=None if isinstance(error, CollegiumError) else error)
    kind: RefusalKind = next((kind for of, kind in KINDS if isinstance(error, of)), "failure")
    reason = UNSAID if kind in ("data", "failure") else str(error)
    if state is not None:
        reason = reason.replace(f"{state}{os.sep}", "").replace(str(state), "its state folder")
    return Refusal(institution=institution, kind=kind, reason=plain(reason))
