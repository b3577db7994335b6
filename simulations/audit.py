"""`collegium audit`: an experiment file is trained and audited, a bundle is audited as it is."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from shared.errors import ConfigError
from simulations.auditing.bundle import BundleAudit, audit_bundle
from simulations.auditing.plan import Plan
from simulations.auditing.training import TrainingAudit, audit_training


def audit_target(
    target: Path,
    plan: Plan,
    *,
    data: Path | None = None,
    limit: int | None = None,
    members: Path | None = None,
    others: Path | None = None,
    backbone: str | None = None,
    announce: Callable[[str], None],
) -> TrainingAudit | BundleAudit:
    """Audit what the path names.

    Args:
        target: An experiment file, or the folder of a bundle.
        plan: What to plant; of a bundle only its task and confidence count.
        data: As in `audit_training`.
        limit: As in `audit_training`.
        members: As in `audit_bundle`.
        others: As in `audit_bundle`.
        backbone: As in `audit_bundle`.
        announce: Told of every stage.

    Raises:
        ConfigError: The options do not fit the target.
    """
    if target.is_dir():
        if members is None or others is None or plan.task is None:
            raise ConfigError(
                f"Expected --task, --members and --others to audit the bundle {target}, but not all of them came; name "
                "the task, a file of records that it was trained on, and a file of records that it was not trained on."
            )
        return audit_bundle(
            target, members=members, others=others, task=plan.task, backbone=backbone, confidence=plan.confidence
        )
    if members or others or backbone:
        raise ConfigError(
            f"Expected the folder of a bundle with --members, --others and --backbone, but {target} is none; "
            "leave them out for an experiment file."
        )
    with tempfile.TemporaryDirectory(prefix="collegium-audit-") as folder:
        return audit_training(target, plan, data=data, limit=limit, workdir=Path(folder), announce=announce)
