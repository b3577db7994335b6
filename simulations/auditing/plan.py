"""What an audit of training plants, and where."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from shared.errors import ConfigError, listed
from simulations.experiment import Experiment

Kind = Literal["gradient", "text", "secrets", "site"]
CANARIES: Mapping[Kind, int] = {"gradient": 1000, "text": 200, "secrets": 20, "site": 200}
"""How many are planted by default; of `site`, how many runs there are with or without an owner."""
FEWEST = 20
"""With fewer canaries, all in or all out is too likely."""
SUITABLE: Mapping[Kind, tuple[str, ...]] = {
    "gradient": (),
    "site": (),
    "text": ("text-classification",),
    "secrets": ("text-classification", "fill-mask"),
}
"""Types of task that canaries of a kind can be planted in; none where they are of no single task."""


@dataclass(frozen=True)
class Plan:
    """What to plant."""

    kind: Kind = "gradient"
    """`gradient`: worst cases that test the trainer; `text` and `secrets`: records that test all of a federation.

    `site`: one owner of the institution's own, who tests all that it does from its files to the update that leaves.
    """
    canaries: int | None = None
    """How many; as in CANARIES if None."""
    institution: str | None = None
    """Whose training data; the first that has a suitable task if None."""
    task: str | None = None
    """Where text and secrets are planted; the first suitable one if None."""
    noise_factor: float = 1.0
    """What the noise is multiplied by while the reported epsilon claims it whole: a control that must be found out."""
    seed: int = 13
    """Decides the canaries and their coins."""
    confidence: float = 0.95


def choose(experiment: Experiment, plan: Plan) -> tuple[str, str | None]:
    """The institution and the task to plant in, as planned or the first that fit.

    Raises:
        ConfigError: Nothing fits.
    """
    federation, institutions = experiment.federation, experiment.institutions
    if plan.institution is not None and plan.institution not in institutions:
        raise ConfigError(
            f"Expected --institution to be one of {listed(sorted(institutions))}, but {plan.institution!r} came."
        )
    if plan.canaries is not None and plan.canaries < FEWEST:
        raise ConfigError(f"Expected at least {FEWEST} canaries, but {plan.canaries} came; raise --canaries.")
    if federation.privacy is None and (plan.kind in ("gradient", "site") or plan.noise_factor != 1):
        raise ConfigError(
            "Expected an experiment with [federation.privacy] for --kind gradient, --kind site and --noise-factor, but "
            "it has none; add the table, or plant --kind text."
        )
    if SUITABLE[plan.kind] and federation.method.keeps:
        raise ConfigError(
            f"Expected a federation with a global model to audit by --kind {plan.kind}, but institutions keep "
            f"{' and '.join(federation.method.keeps)} at home; audit one without [personal] keep."
        )
    if plan.kind == "site" and federation.method.folds:
        raise ConfigError(
            "Expected a rounds.method that leaves the frozen weights alone for --kind site, but it is "
            f"{federation.method_name!r}; audit another, such as 'fedsvd'."
        )
    names = [plan.institution] if plan.institution is not None else list(institutions)
    if not SUITABLE[plan.kind]:
        if plan.task is not None:
            raise ConfigError(f"Expected no --task with --kind {plan.kind}, which is of no single task.")
        return names[0], None
    types = SUITABLE[plan.kind]
    for name in names:
        for task in institutions[name]:
            if plan.task in (None, task) and task in federation.tasks and federation.tasks[task].type in types:
                return name, task
    raise ConfigError(
        f"Expected a task of type {' or '.join(types)} for --kind {plan.kind} at {' or '.join(names)}, but there is "
        f"none{f' named {plan.task}' if plan.task else ''}; name another --institution or --task."
    )
