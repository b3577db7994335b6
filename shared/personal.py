"""What the table `[personal]` cannot be combined with, and why."""

from typing import TYPE_CHECKING

from shared.methods import METHODS

if TYPE_CHECKING:
    from shared.federation import Federation


def wrong_personal(federation: "Federation") -> list[str]:
    """Everything that the table [personal] cannot work with, one clause each."""
    personal, name, wrong = federation.personal, federation.method_name, []
    if personal is None:
        return []
    able = [key for key, method in METHODS.items() if method.linear and all("A" in f for f in method.trains)]
    if "B" in personal.keep and name not in able:
        reason = (
            "has rounds in which institutions train no A, so that they would share nothing of the adapter"
            if federation.method.linear
            else "needs the products of A and B"
        )
        wrong.append(f'with "B" in personal.keep, rounds.method must be one of {able}: {name!r} {reason}')
    if federation.privacy and personal.fine_tune_epochs:
        wrong.append("with [privacy], personal.fine_tune_epochs must be 0, since only rounds are accounted for")
    return wrong
