"""From an institution's files to a site that can answer: its data read and encoded, its model loaded."""

from pathlib import Path

import torch
from cryptography.hazmat.primitives.asymmetric import ec

from client.data.augmentation import open_rewording
from client.data.holdout import key_of_seed
from client.data.identity import count_owners
from client.data.loading import load_data
from client.data.readiness import examine, summary
from client.institution import Institution, load_institution
from client.keys import check_agreed_key
from client.learner import Holdings, Memory
from client.leaving.receipts import Receipts
from client.policy import in_force
from client.preflight import (
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
from client.privacy.account import open_account
from client.privacy.evaluation import open_evaluations
from client.privacy.ledger import Ledger
from client.round.keep import Keep
from client.round.requests import Asked
from client.round.secagg import SecureRounds
from client.site import Site
from shared.adapter import get_state, is_kept
from shared.errors import Reasons
from shared.federation import Federation, load_federation
from shared.model.multitask import MultiTaskModel, build_model


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
    site = build_site(
        institution,
        federation,
        model,
        receipts=kept.receipts,
        ledger=kept.ledger,
        node_key=kept.node_key,
        split_key=kept.split_key,
    )
    check_owners(institution.policy, federation, site.held.owners, reasons)
    reasons.end()
    return site


def build_site(
    institution: Institution,
    federation: Federation,
    model: MultiTaskModel,
    *,
    receipts: Receipts | None = None,
    ledger: Ledger | None = None,
    node_key: ec.EllipticCurvePrivateKey | None = None,
    split_key: bytes | None = None,
) -> Site:
    """Read and encode the institution's data for the given model.

    Args:
        institution: Its file.
        federation: The agreement that it has approved.
        model: The federation's.
        receipts: Where everything that leaves is recorded; None in the simulator, whose policy is checked all the same.
        ledger: Where private training and private scores are charged; None in the simulator.
        node_key: With [secure_aggregation], what it signs with; the federation file names its public half.
        split_key: Decides who is held out (`client.data.holdout`); in the simulator from the federation's seed.
    """
    check_name(institution, federation)
    if node_key is not None:
        check_agreed_key(node_key.public_key(), institution.name, federation)
    sources = sources_of(institution)
    max_length, split_key = federation.backbone.max_length, split_key or key_of_seed(federation.seed)
    data = load_data(sources, model.tasks, model.tokenizer, max_length, split_key, private=ledger is not None)
    rewordings = {
        task: open_rewording(source.augmentation, model.tasks[task])
        for task, source in sources.items()
        if source.augmentation
    }
    policy = in_force(institution.policy, federation)
    private = policy.metrics == "private"
    readiness = {
        name: examine(
            model.tasks[name],
            {
                split: list(enumerate(held.records, 1))
                for split, held in splits.items()
                if split == "train" or not private  # the numbers would tell of records whose scores are noisy
            },
            model.tokenizer,
            max_length,
            annotates=sources[name].annotates,
        )
        for name, splits in data.items()
    }
    columns = {task: sources[task].group_by for task in data}
    owners = {
        task: {
            split: count_owners(held.records, model.tasks[task], columns[task])
            for split, held in splits.items()
            if split == "train" or not private or model.tasks[task].tally
        }
        for task, splits in data.items()
    }
    folder = institution.runtime.state if receipts else None
    return Site(
        institution.name,
        federation,
        model,
        Holdings(data, rewordings, summary(readiness), owners),
        Memory(Keep(folder and folder / "rounds"), Asked(folder and folder / "requests")),
        policy,
        initial={name: array for name, array in get_state(model).items() if is_kept(name, federation.method.keeps)},
        account=open_account(
            {task: splits["train"].records for task, splits in data.items()},
            columns,
            tasks=model.tasks,
            federation=federation,
            policy=institution.policy,
            ledger=ledger,
        )
        if federation.privacy
        else None,
        evaluations=open_evaluations(
            {task: {split: held.records for split, held in splits.items()} for task, splits in data.items()},
            columns,
            tasks=model.tasks,
            federation=federation,
            policy=policy,
            ledger=ledger,
        )
        if private
        else None,
        state=institution.runtime.state,
        receipts=receipts,
        secure=SecureRounds(node_key),
    )


def load_model(institution: Institution, federation: Federation) -> MultiTaskModel:
    """The federation's model on this institution's device."""
    if institution.runtime.threads:
        torch.set_num_threads(institution.runtime.threads)
    model = build_model(federation, backbone=institution.backbone, rank=rank_of(institution, federation))
    return model.to(device_of(institution))
