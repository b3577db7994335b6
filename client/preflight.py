"""What keeps a site from starting, found before anything is trained: `up`, `doctor` and `simulate` ask here alike.

Each check takes the `Reasons` to which it adds, so that a user sees everything at once.
"""

import logging
from dataclasses import dataclass

import torch
from cryptography.hazmat.primitives.asymmetric import ec

from client.data.holdout import find_key, key_of_seed, open_key
from client.data.loading import read_data
from client.institution import Data, Institution
from client.keys import check_agreed_key, read_private_key
from client.leaving import receipts as log_of_receipts
from client.leaving.receipts import Receipts
from client.policy import Owners, Policy, in_force, objections
from client.privacy.account import budget_of, has_ledger, mechanism_of_round, open_ledger
from client.privacy.evaluation import evaluation_budget
from client.privacy.ledger import Ledger
from shared.errors import ConfigError, PolicyError, Reasons, joined, listed
from shared.federation import Federation
from shared.model.backbone import Outline, beside, load_outline
from shared.model.initial import check_adapter, check_length
from shared.tasks import build_task

log = logging.getLogger("collegium.client")


@dataclass(frozen=True)
class Kept:
    """What a site keeps in its state folder, and its key; None where it is not needed, or is wrong."""

    receipts: Receipts | None = None
    ledger: Ledger | None = None
    node_key: ec.EllipticCurvePrivateKey | None = None
    split_key: bytes | None = None


def check_terms(institution: Institution, federation: Federation, reasons: Reasons) -> None:
    """Whether the institution's file can take part in the agreement, whatever its records are."""
    with reasons.gather():
        check_name(institution, federation)
    with reasons.gather():
        sources_of(institution)
    with reasons.gather():
        rank_of(institution, federation)
    with reasons.gather():
        device_of(institution)
    check_owners(institution.policy, federation, {}, reasons)
    if federation.privacy:
        with reasons.gather():
            budget_of(institution.policy, federation)
        with reasons.gather():
            mechanism_of_round(federation)
    if in_force(institution.policy, federation).metrics == "private":
        with reasons.gather():
            evaluation_budget(institution.policy, federation)


def check_owners(policy: Policy, federation: Federation, owners: Owners, reasons: Reasons) -> None:
    """Whether the policy lets requests of the agreement through, with the owners that the site holds."""
    for objection in objections(policy, federation, owners):
        with reasons.gather():
            raise PolicyError(objection)


def check_name(institution: Institution, federation: Federation) -> None:
    """Raise ConfigError unless the federation file names the institution."""
    if institution.name not in federation.rounds.institutions:
        raise ConfigError(
            f"Expected the institution's name to be among {listed(federation.rounds.institutions)} of the federation "
            f"file, but it is {institution.name!r}."
        )


def sources_of(institution: Institution) -> dict[str, Data]:
    """The data of the tasks that may take part; ConfigError if there is none."""
    allowed = institution.policy.tasks
    sources = {task: source for task, source in institution.data.items() if allowed is None or task in allowed}
    if left := sorted(institution.data.keys() - sources.keys()):
        log.info("policy.tasks leaves out %s", joined(left))
    if not sources:
        raise ConfigError(
            f"Expected policy.tasks to allow one of the tasks under [data], {listed(sorted(institution.data))}, "
            f"but it names {listed(allowed or ())}; correct one of the two."
        )
    return sources


def rank_of(institution: Institution, federation: Federation) -> int:
    """The rank of the institution's adapter; ConfigError if the federation does not allow it."""
    rank, ranks = institution.adapter.rank or federation.adapter.rank, federation.adapter.ranks
    if rank not in ranks:
        raise ConfigError(
            f"Expected adapter.rank between {ranks.start} and {ranks.stop - 1}, as the federation file allows, "
            f"not {rank}."
        )
    return rank


def device_of(institution: Institution) -> torch.device:
    """Where the institution computes; ConfigError if this machine has no such device."""
    name = institution.runtime.device
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"runtime.device must be auto, cpu, cuda or cuda:N as present here, not {name!r}.") from error
    return device


def open_kept(institution: Institution, federation: Federation, reasons: Reasons, *, make: bool = True) -> Kept:
    """Open what the site keeps.

    Args:
        institution: Its file.
        federation: The agreement that it has approved.
        reasons: Takes what is wrong: a key that others may read, a receipt or an entry of the ledger that was edited.
        make: Whether to make what is not there yet, as a start does; if not, nothing is written.
    """
    state, key = institution.runtime.state, institution.identity.key
    charged = is_charged(institution, federation)
    receipts, ledger, node_key, split_key = None, None, None, None
    if make or (key.exists() and (state / log_of_receipts.FILE).exists()):
        with reasons.gather():
            receipts = Receipts(state, key)
    with reasons.gather():
        if charged and (make or has_ledger(institution) or log_of_receipts.heads(state)):
            ledger = open_ledger(institution)
    if federation.secure_aggregation and (make or key.exists()):
        with reasons.gather():
            node_key = read_private_key(key)
    if node_key and institution.name in federation.rounds.institutions:
        with reasons.gather():
            check_agreed_key(node_key.public_key(), institution.name, federation)
    with reasons.gather():
        split_key = open_key(state) if make else find_key(state)
    return Kept(receipts, ledger, node_key, split_key)


def backbone_of(institution: Institution, federation: Federation) -> str:
    """Where the site's backbone is: by its own file, else by the federation file, from which a relative name starts."""
    return institution.backbone or beside(federation.backbone.name, institution.federation)


def check_backbone(institution: Institution, federation: Federation, reasons: Reasons) -> Outline | None:
    """Whether the model can be built, without its weights; what there is to know of its backbone, if there is one."""
    found: Outline | None = None
    with reasons.gather():
        found = load_outline(backbone_of(institution, federation), federation.backbone.sha256)
        for check in (check_length, check_adapter):
            with reasons.gather():
                check(found.shape, federation)
    return found


def check_data(institution: Institution, federation: Federation, key: bytes | None, reasons: Reasons) -> None:
    """Whether all records are as they should be; for when there is no site to be built of them."""
    tasks = {name: build_task(name, spec) for name, spec in federation.tasks.items()}
    with reasons.gather():
        read_data(
            sources_of(institution),
            tasks,
            key or key_of_seed(federation.seed),
            private=is_charged(institution, federation),
        )


def is_charged(institution: Institution, federation: Federation) -> bool:
    """Whether what leaves costs the owners of records, so that there is a ledger."""
    return federation.privacy is not None or in_force(institution.policy, federation).metrics == "private"
