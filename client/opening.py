"""From an institution's files to a site that can answer: its data read and encoded, its model loaded."""

from pathlib import Path

import torch

from client.data.augmentation import open_rewording
from client.data.changes import Sources, open_sources
from client.data.holdout import key_of_seed
from client.data.identity import count_owners
from client.data.loading import Row, load_data
from client.data.readiness import examine, summary
from client.institution import Institution, load_institution
from client.keys import check_agreed_key
from client.learner import Holdings, Memory
from client.policy import Policy, in_force
from client.preflight import (
    Kept,
    backbone_of,
    check_backbone,
    check_data,
    check_name,
    check_owners,
    check_terms,
    device_of,
    open_kept,
    rank_of,
    sources_of,
)
from client.privacy.account import Account, open_account
from client.privacy.evaluation import Evaluations, open_evaluations
from client.privacy.ledger import Ledger
from client.round.keep import Keep
from client.round.requests import Asked
from client.round.secagg import SecureRounds
from client.site import Site
from shared.adapter import get_state, is_kept
from shared.errors import Reasons
from shared.federation import Federation, load_federation
from shared.fields import Split
from shared.model.multitask import MultiTaskModel, build_model
from shared.process.machine import machine_errors

SIMULATED = Kept()
"""Of a site from which nothing leaves."""


def open_site(path: Path, *, model: MultiTaskModel | None = None) -> Site:
    """Load an institution's file, its approved federation, its data, and the model.

    Args:
        path: `institution.toml`.
        model: A model of the same federation to share instead of loading one (the simulator does).

    Raises:
        ConfigError, DataError, BackboneError, StoreError: What is wrong, in one sentence.
    """
    institution = load_institution(path)
    federation = load_federation(institution.federation)
    reasons = Reasons()
    check_terms(institution, federation, reasons)
    kept = open_kept(institution, federation, reasons)
    if model is None and not reasons.found:
        with reasons.gather():
            model = load_model(institution, federation)
    if reasons.found:
        check_backbone(institution, federation, reasons)
        check_data(institution, federation, kept.split_key, reasons)
    reasons.end()
    assert model is not None
    site = build_site(institution, federation, model, kept)
    check_owners(institution.policy, federation, site.holdings.owners, reasons)
    reasons.end()
    return site


def build_site(institution: Institution, federation: Federation, model: MultiTaskModel, kept: Kept = SIMULATED) -> Site:
    """Read and encode the institution's data for the given model.

    Args:
        institution: Its file.
        federation: The agreement that it has approved.
        model: The federation's.
        kept: What it keeps in its state folder; in the simulator, where nothing leaves, at most a node key.
    """
    check_name(institution, federation)
    if kept.node_key is not None:
        check_agreed_key(kept.node_key.public_key(), institution.name, federation)
    policy, folder = in_force(institution.policy, federation), institution.runtime.state
    holdings = _hold(institution, federation, model, policy, kept)
    lasting = folder if kept.receipts else None
    memory = Memory(
        Keep(lasting and lasting / "rounds"),
        Asked(lasting and lasting / "requests"),
        place=lasting and lasting / "place.pt",
        initial={name: array for name, array in get_state(model).items() if is_kept(name, federation.method.keeps)},
    )
    return Site(
        institution.name,
        federation,
        model,
        holdings,
        memory,
        policy,
        account=_account(institution, federation, model, holdings, kept.ledger),
        evaluations=_evaluations(institution, federation, model, holdings, policy, kept.ledger),
        state=folder,
        receipts=kept.receipts,
        secure=SecureRounds(kept.node_key),
        sources=_sources(institution, federation, model, holdings, kept) if lasting else None,
    )


def _sources(
    institution: Institution, federation: Federation, model: MultiTaskModel, holdings: Holdings, kept: Kept
) -> Sources:
    """What the records were read from, to be looked at before every round."""
    with machine_errors():
        return open_sources(
            sources_of(institution),
            model.tasks,
            kept.split_key or key_of_seed(federation.seed),
            private=kept.ledger is not None,
            loaded=holdings.data,
            state=institution.runtime.state,
        )


def _hold(
    institution: Institution, federation: Federation, model: MultiTaskModel, policy: Policy, kept: Kept
) -> Holdings:
    """The institution's records, and what is known about them; little about those whose scores are private."""
    sources, length = sources_of(institution), federation.backbone.max_length
    key = kept.split_key or key_of_seed(federation.seed)
    data = load_data(sources, model.tasks, model.tokenizer, length, key, private=kept.ledger is not None)
    hidden = policy.metrics == "private"
    readiness, owners = {}, {}
    for name, splits in data.items():
        task, source = model.tasks[name], sources[name]
        examined: dict[Split, list[Row]] = {
            split: list(enumerate(own.records, 1))
            for split, own in splits.items()
            if split == "train" or not hidden  # the numbers would reveal records whose scores are noisy
        }
        readiness[name] = examine(task, examined, model.tokenizer, length, annotates=source.annotates)
        owners[name] = {
            split: count_owners(own.records, task, source.group_by)
            for split, own in splits.items()
            if split == "train" or not hidden or task.tally
        }
    rewordings = {
        task: open_rewording(source.augmentation, model.tasks[task])
        for task, source in sources.items()
        if source.augmentation
    }
    return Holdings(data, rewordings, summary(readiness), owners)


def _account(
    institution: Institution, federation: Federation, model: MultiTaskModel, holdings: Holdings, ledger: Ledger | None
) -> Account | None:
    """What private training costs, where the federation has [privacy]."""
    if not federation.privacy:
        return None
    return open_account(
        {task: splits["train"].records for task, splits in holdings.data.items()},
        _owner_columns(institution, holdings),
        tasks=model.tasks,
        federation=federation,
        policy=institution.policy,
        ledger=ledger,
    )


def _evaluations(
    institution: Institution,
    federation: Federation,
    model: MultiTaskModel,
    holdings: Holdings,
    policy: Policy,
    ledger: Ledger | None,
) -> Evaluations | None:
    """What private scores cost, where scores are private."""
    if policy.metrics != "private":
        return None
    return open_evaluations(
        {task: {split: own.records for split, own in splits.items()} for task, splits in holdings.data.items()},
        _owner_columns(institution, holdings),
        tasks=model.tasks,
        federation=federation,
        policy=policy,
        ledger=ledger,
    )


def _owner_columns(institution: Institution, holdings: Holdings) -> dict[str, str | None]:
    return {task: institution.data[task].group_by for task in holdings.data}


def load_model(institution: Institution, federation: Federation) -> MultiTaskModel:
    """The federation's model on this institution's device."""
    if institution.runtime.threads:
        torch.set_num_threads(institution.runtime.threads)
    model = build_model(
        federation, backbone=backbone_of(institution, federation), rank=rank_of(institution, federation)
    )
    return model.to(device_of(institution))
