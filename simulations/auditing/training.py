"""Auditing training: canaries in one institution's data, and what a run of the federation reveals about them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from client.institution import Institution
from client.opening import build_site
from client.privacy.account import privacy_of
from client.site import Site
from client.train import trainer
from server.store import Store
from shared.adapter import get_state, set_state
from shared.codec import Arrays
from shared.federation import Federation
from shared.model.multitask import MultiTaskModel, build_model
from shared.tasks import Record
from simulations.auditing.bound import Bound, bound_from_scores
from simulations.auditing.canaries import (
    DIRAC,
    OWNER,
    RECORDS_PER_OWNER,
    Dirac,
    DiracHead,
    Secret,
    ask_for_digits,
    draw_secrets,
    draw_texts,
    toss,
)
from simulations.auditing.exposure import exposure
from simulations.auditing.losses import record_losses
from simulations.auditing.membership import Membership, measure_membership
from simulations.auditing.plan import CANARIES, Kind, Plan, choose
from simulations.auditing.planting import plant, weaken
from simulations.auditing.site import audit_site
from simulations.engine import run_federation
from simulations.experiment import Experiment, load_experiment, open_sites

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
ALTERNATIVES = 511
"""Random numbers that each planted secret is compared with."""
DELTA = 1e-5
"""Where the federation has no [privacy]."""


@dataclass(frozen=True)
class TrainingAudit:
    """What an audit of training found."""

    kind: Kind
    agreement: str
    """Digest of the federation file of the experiment."""
    institution: str
    task: str | None
    noise_factor: float
    confidence: float
    delta: float
    reported: float | None
    """The epsilon that the accounting reports; None without [privacy]."""
    bound: Bound
    membership: Membership
    """How well the same scores show which canaries were in."""
    scores_in: tuple[float, ...]
    scores_out: tuple[float, ...]
    exposure_in: tuple[float, ...] = ()
    """Of planted secrets, in bits."""
    exposure_out: tuple[float, ...] = ()

    @property
    def violated(self) -> bool:
        """Whether more is certainly lost than is reported."""
        return self.reported is not None and self.bound.epsilon > self.reported


def audit_training(
    path: Path,
    plan: Plan,
    *,
    data: Path | None = None,
    limit: int | None = None,
    workdir: Path,
    announce: Callable[[str], None],
) -> TrainingAudit:
    """Plant canaries, train as the experiment file says, and find out how well they betray themselves.

    Args:
        path: The experiment file.
        plan: What to plant.
        data: Folder that its data paths start from; its own folder if None.
        limit: At most this many records per task and split.
        workdir: Folder for the store and the checkpoints.
        announce: Told of every stage.

    Raises:
        ConfigError: The plan does not fit the experiment.
    """
    experiment = load_experiment(path, data=data, limit=limit, workdir=workdir, announce=announce)
    federation = experiment.federation
    institution, task = choose(experiment, plan)
    rng = np.random.default_rng(plan.seed)
    count = CANARIES[plan.kind] if plan.canaries is None else plan.canaries
    included = toss(count, rng)
    model = build_model(federation)
    found: tuple[Floats, float | None, Floats]
    files = Institution(name=institution, data=experiment.institutions[institution])
    if plan.kind == "gradient":
        found = *_audit_gradients(build_site(files, federation, model), included, plan, announce), np.zeros(0)
    elif plan.kind == "site":
        options: dict[str, Any] = {"noise_factor": plan.noise_factor, "workdir": workdir, "announce": announce}
        found = *audit_site(files, federation, model, included, **options), np.zeros(0)
    else:
        assert task
        announce(f"{int(included.sum())} of {count} {plan.kind} canaries join the training data of {institution}")
        found = _audit_records(experiment, model, institution, task, included, plan, rng, workdir, announce)
    scores, reported, exposures = found
    delta = federation.privacy.delta if federation.privacy else DELTA
    return TrainingAudit(
        plan.kind,
        federation.digest,
        institution,
        task,
        plan.noise_factor,
        plan.confidence,
        delta,
        reported,
        bound_from_scores(scores, included, delta, plan.confidence),
        measure_membership(scores[included], scores[~included], plan.confidence),
        *(tuple(scores[part].tolist()) for part in (included, ~included)),
        *(tuple(exposures[part].tolist()) for part in (included, ~included) if len(exposures)),
    )


def _audit_gradients(site: Site, included: Bools, plan: Plan, announce: Callable[[str], None]) -> tuple[Floats, float]:
    """The scores of gradient canaries and the reported epsilon, after all rounds of this institution by itself.

    A canary's score is the sum over all steps of its coordinate in the noisy gradients, in contributions of one owner.
    """
    model, federation = site.model, site.federation
    announce(f"{int(included.sum())} of {len(included)} gradient canaries join the training data of {site.name}")
    tag = Dirac(len(included))
    model.tasks[DIRAC] = tag
    model.add_head(DIRAC, DiracHead(tag.canaries).to(model.device))
    records = [{"canary": int(number)} for number in np.flatnonzero(included) for _ in range(RECORDS_PER_OWNER)]
    canaries = tag.encode(records, model.tokenizer, federation.backbone.max_length)
    owners = {(DIRAC, row): f"{OWNER} {record['canary']}" for row, record in enumerate(records)}
    account = weaken(site, owners, plan.noise_factor)
    scores, rounds = np.zeros(len(included)), federation.rounds.count
    for number in range(1, rounds + 1):
        announce(f"Round {number} of {rounds}")
        with account.spend(round=number) as private, _noisy_gradients(model.heads[DIRAC]) as seen:
            trainer.train(
                model,
                [*site.examples("train"), *canaries],
                federation.training,
                seed=trainer.derive_seed(federation.seed, site.name, number),
                stage=trainer.Stage(number, rounds),
                private=private,
            )
        scores -= np.sum(seen, axis=0) * private.expected_owners / _contribution(federation)
    return scores, account.epsilon()


def _audit_records(
    experiment: Experiment,
    model: MultiTaskModel,
    institution: str,
    task: str,
    included: Bools,
    plan: Plan,
    rng: np.random.Generator,
    workdir: Path,
    announce: Callable[[str], None],
) -> tuple[Floats, float | None, Floats]:
    """The scores of records, the reported epsilon, and the exposure of secrets, after a run of the whole federation.

    A record's score is by how much its loss fell from the initial state to the last.
    """
    federation, task_type = experiment.federation, model.tasks[task]
    labels = experiment.institutions[institution][task].annotates or task_type.labels
    secrets: tuple[Secret, ...] = ()
    if plan.kind == "secrets":
        secrets = draw_secrets(task_type, len(included), rng, labels=labels, alternatives=ALTERNATIVES)
        records: Sequence[Record] = [secret.record for secret in secrets]
    else:
        records = draw_texts(task_type, len(included), rng, labels=labels, tokenizer=model.tokenizer)
    sites = open_sites(experiment, model)
    sites[institution] = plant(sites[institution], task, records, included, plan.noise_factor)
    initial = get_state(model)

    def losses(records: Sequence[Record]) -> Floats:
        examples = task_type.encode(records, model.tokenizer, federation.backbone.max_length)
        asked = ask_for_digits(examples) if plan.kind == "secrets" else examples
        return record_losses(model, asked, federation.training.precision)

    before = losses(records)
    final = _run(sites, federation, initial, workdir, announce)
    set_state(model, final)
    after = losses(records)
    exposed = [exposure(loss, losses(secret.alternatives)) for loss, secret in zip(after, secrets, strict=False)]
    account = sites[institution].account
    return before - after, account.epsilon() if account else None, np.array(exposed)


def _run(
    sites: Mapping[str, Site],
    federation: Federation,
    initial: Arrays,
    workdir: Path,
    announce: Callable[[str], None],
) -> Arrays:
    """The state after the last round."""
    with Store.open(f"sqlite:///{workdir / 'collegium.db'}", checkpoints=workdir / "checkpoints") as store:
        run_id = run_federation(sites, federation, initial, store, announce)
        last = store.last_round(run_id)
        assert last is not None
        return store.load_checkpoint(run_id, last).model


@contextmanager
def _noisy_gradients(head: torch.nn.Module) -> Iterator[list[Floats]]:
    """Collects the gradient of the canaries' weights as every step of the inner optimizer sees it: noise included."""
    (weight,) = head.parameters()
    seen: list[Floats] = []

    def look(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if not isinstance(optimizer, DPOptimizer) and weight.grad is not None:
            seen.append(weight.grad.detach().flatten().double().cpu().numpy().copy())

    handle = register_optimizer_step_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def _contribution(federation: Federation) -> float:
    """The longest summed gradient of one owner."""
    privacy = privacy_of(federation)
    return 1.0 if privacy.clipping == "automatic" else privacy.clip
