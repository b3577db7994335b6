"""From an institution's files to a site that can answer: its data read and encoded, its model loaded."""

import logging
from pathlib import Path

import torch
from cryptography.hazmat.primitives.asymmetric import ec

from client.data.augmentation import open_rewording
from client.data.holdout import check_limit, key_of_seed, open_key
from client.data.identity import count_owners
from client.data.loading import load_data
from client.data.readiness import examine, summary
from client.institution import Data, Institution, load_institution
from client.keys import check_agreed_key, read_private_key
from client.leaving.receipts import Receipts
from client.policy import in_force
from client.privacy.account import open_account, open_ledger
from client.privacy.evaluation import open_evaluations
from client.privacy.ledger import Ledger
from client.round.keep import Keep
from client.round.requests import Asked
from client.round.secagg import SecureRounds
from client.site import Site
from shared.adapter import get_state, is_kept
from shared.errors import ConfigError
from shared.federation import Federation, load_federation
from shared.model.multitask import MultiTaskModel, build_model

log = logging.getLogger("collegium.client")


def open_site(path: Path, *, model: MultiTaskModel | None = None) -> Site:
    """Load an institution's file, its approved federation, its data, and the model.

    Args:
        path: `institution.toml`.
        model: A model of the same federation to share instead of loading one (the simulator does).

    Raises:
        ConfigError, DataError, BackboneError, StoreError: What is wrong, in one sentence.
    """
    institution = load_institution(path)
    receipts = Receipts(institution.runtime.state, institution.identity.key)
    federation = load_federation(institution.federation)
    charged = federation.privacy or in_force(institution.policy, federation).metrics == "private"
    ledger = open_ledger(institution.runtime.state) if charged else None
    node_key = read_private_key(institution.identity.key) if federation.secure_aggregation else None
    model = model or load_model(institution, federation)
    split_key = open_key(institution.runtime.state)
    return build_site(
        institution, federation, model, receipts=receipts, ledger=ledger, node_key=node_key, split_key=split_key
    )


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
    if institution.name not in federation.rounds.institutions:
        raise ConfigError(
            f"Expected the institution's name to be among {list(federation.rounds.institutions)} of the federation "
            f"file, but it is {institution.name!r}."
        )
    if node_key is not None:
        check_agreed_key(node_key.public_key(), institution.name, federation)
    sources = _allowed(institution)
    if ledger:
        for task, source in sources.items():
            check_limit(task, source.limit)
    max_length, split_key = federation.backbone.max_length, split_key or key_of_seed(federation.seed)
    data = load_data(sources, model.tasks, model.tokenizer, max_length, split_key)
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
    return Site(
        institution.name,
        federation,
        model,
        data,
        rewordings,
        summary(readiness),
        policy=policy,
        owners={
            task: {
                split: count_owners(held.records, model.tasks[task], columns[task])
                for split, held in splits.items()
                if split == "train" or not private or model.tasks[task].tally
            }
            for task, splits in data.items()
        },
        initial={name: array for name, array in get_state(model).items() if is_kept(name, federation.method.keeps)},
        keep=Keep(institution.runtime.state / "rounds" if receipts else None),
        asked=Asked(institution.runtime.state / "requests" if receipts else None),
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


def _allowed(institution: Institution) -> dict[str, Data]:
    """The sources of the tasks that may take part."""
    allowed = institution.policy.tasks
    sources = {task: source for task, source in institution.data.items() if allowed is None or task in allowed}
    if left := sorted(institution.data.keys() - sources.keys()):
        log.info("policy.tasks leaves out %s", ", ".join(left))
    if not sources:
        raise ConfigError(
            f"Expected policy.tasks to allow one of the tasks under [data], {sorted(institution.data)}, but it names "
            f"{list(allowed or ())}; correct one of the two."
        )
    return sources


def load_model(institution: Institution, federation: Federation) -> MultiTaskModel:
    """The federation's model on this institution's device."""
    if institution.runtime.threads:
        torch.set_num_threads(institution.runtime.threads)
    rank = institution.adapter.rank or federation.adapter.rank
    if rank not in federation.adapter.ranks:
        ranks = federation.adapter.ranks
        raise ConfigError(
            f"Expected adapter.rank between {ranks.start} and {ranks.stop - 1}, as the federation file allows, "
            f"not {rank}."
        )
    model = build_model(federation, backbone=institution.backbone, rank=rank)
    return model.to(_device(institution.runtime.device))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"runtime.device must be auto, cpu, cuda or cuda:N as present here, not {name!r}.") from error
    return device
