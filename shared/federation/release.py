"""`[release]`: what a trained model must show before the coordinator signs a bundle of it."""

from typing import Annotated

from pydantic import Field

from shared.config import Licence, Model


class Release(Model):
    """What is asked of a release. What was not measured counts as missed."""

    max_exposure: Annotated[float, Field(gt=0)] | None = None
    """Most bits by which training made planted secrets easier to guess, on average (`collegium audit --kind secrets`).

    A secret that was never seen has about 1.44.
    """
    max_membership_auc: Annotated[float, Field(ge=0.5, le=1)] | None = None
    """Most that an attack may tell members from others by, for every task of the release; 0.5 is guessing.

    The area under the curve that `collegium audit BUNDLE` measures.
    """
    min_worst_score: float | None = None
    """Lowest score of any task at any institution that trained it, by the task's own metric on test records."""
    licence: Licence | None = None
    """Of the released model, for its card: an identifier of Hugging Face's (`apache-2.0`), or a few words."""
