"""Auditing a released bundle: can the records that it was trained on be told from others?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.data.identity import hash_texts
from client.data.loading import read_records
from client.predict import open_bundle
from shared.bundle import release_of
from shared.errors import ConfigError, DataError
from shared.model.multitask import MultiTaskModel, build_model
from shared.tasks import Record
from simulations.auditing.losses import record_losses
from simulations.auditing.membership import Membership, measure_membership

FEWEST = 10
"""Fewest records of either kind."""


@dataclass(frozen=True)
class BundleAudit:
    """What a bundle reveals about its training records; scores are higher where a record is rather a member."""

    bundle: str
    release: str
    """Its id (`shared.bundle.manifest`), by which `collegium server release --audit` knows what was audited."""
    task: str
    confidence: float
    epsilon: float | None
    """What the bundle's agreement allows a training to cost; None without such a bound."""
    by_loss: Membership
    """The score is the negative loss under the bundle."""
    by_drop: Membership
    """The score is by how much the loss fell from the federation's initial state to the bundle."""
    scores_in: tuple[float, ...]
    """By drop."""
    scores_out: tuple[float, ...]


def audit_bundle(
    bundle: Path, *, members: Path, others: Path, task: str, backbone: str | None = None, confidence: float = 0.95
) -> BundleAudit:
    """Measure membership inference on a bundle.

    Args:
        bundle: The folder that `collegium server release` wrote.
        members: Labelled records that were trained on.
        others: Labelled records of the same kind that were not.
        task: Whose records they are.
        backbone: Where the bundle's BERT is, if not as named there.
        confidence: Of the intervals.

    Raises:
        ConfigError: The bundle cannot be read, or has no such task.
        DataError: Records are wrong, too few, or in both files.
    """
    predictor = open_bundle(bundle, backbone=backbone)
    federation, task_type = predictor.federation, predictor.task(task)
    inside, outside = read_records(members, task_type), read_records(others, task_type)
    for file, records in ((members, inside), (others, outside)):
        if len(records) < FEWEST:
            raise DataError(f"Expected at least {FEWEST} records in {file}, but it has {len(records)}; add more.")
    inputs = ({hash_texts(task_type.texts_of(record)) for record in records} for records in (inside, outside))
    if common := set.intersection(*inputs):
        raise DataError(
            f"Expected no record in both {members} and {others}, but {len(common)} are; take them out "
            "of one of the two."
        )

    def losses(model: MultiTaskModel, records: Sequence[Record]) -> NDArray[np.float64]:
        return record_losses(model, task_type.encode(records, model.tokenizer, federation.backbone.max_length))

    records = [*inside, *outside]
    after = losses(predictor.model, records)
    before = losses(build_model(federation, backbone=backbone), records)
    if not np.isfinite(before - after).all():
        raise ConfigError(f"Expected finite losses of task {task} under {bundle}, but some are not; release it again.")
    drops, count = before - after, len(inside)
    return BundleAudit(
        str(bundle),
        release_of(bundle),
        task,
        confidence,
        federation.privacy.epsilon if federation.privacy else None,
        measure_membership(-after[:count], -after[count:], confidence),
        measure_membership(drops[:count], drops[count:], confidence),
        tuple(drops[:count].tolist()),
        tuple(drops[count:].tolist()),
    )
