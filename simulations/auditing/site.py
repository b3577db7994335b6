"""Auditing a whole site: one owner more or less, on the whole way from the files to the update that leaves.

The attacker knows everything but whether one owner's records are in the files, and sees what the site sends. In runs
without noise of both worlds it learns in which direction the owner moves the update, and takes the owner whom that
shows most. Then come the runs that count, each with or without the owner by a fair coin: their scores are how far the
update went that way. They are independent, so that together they are one mechanism on many coins, to which the bound
for one run applies.

A site is private only if all of it is: what is held out, what is masked and what is dropped may not depend on the owner
either, and each of these moves the update by more than a clip if it does.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.data.holdout import check_limit
from client.data.identity import owner_of
from client.data.loading import paths_of, rows_of
from client.data.sources import BadRow
from client.institution import Data, Institution
from client.opening import build_site
from client.privacy.account import mechanism_of_round, privacy_of
from client.privacy.accounting import epsilon
from client.privacy.owners import Key, Owner
from client.site import Site
from shared import codec
from shared.adapter import get_state, is_received, of_tasks
from shared.codec import Arrays
from shared.errors import ConfigError
from shared.federation import Federation
from shared.fields import Split
from shared.model.multitask import MultiTaskModel
from shared.protocol import TrainReply, TrainRequest
from shared.tasks import Record, Task
from simulations.auditing.planting import weaken

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
CANDIDATES = 3
"""Owners among whom the attacker chooses."""
REFERENCES = 4
"""Runs without noise of either world; more than one, since owners are drawn and words masked by chance."""


def audit_site(
    institution: Institution,
    federation: Federation,
    model: MultiTaskModel,
    included: Bools,
    *,
    noise_factor: float,
    workdir: Path,
    announce: Callable[[str], None],
) -> tuple[Floats, float]:
    """How far the update of each run went the owner's way, and the epsilon that is reported for a run.

    A run is all rounds of the federation, each from its initial state, as a coordinator may ask.

    Args:
        institution: Its files.
        federation: It has [privacy]; masks of secure aggregation are left out.
        model: The federation's in its initial state; it is trained.
        included: Of every run, whether the owner is in.
        noise_factor: What the noise is multiplied by while the reported epsilon claims it whole.
        workdir: For the files without an owner.
        announce: Told of every stage.

    Raises:
        ConfigError: There is a single owner, or nobody else in one of their tasks; the site refuses to train, or a site
            that keeps a ledger would refuse the data.
    """
    federation = federation.model_copy(update={"secure_aggregation": None})
    state = codec.encode(_received(model, federation, institution.data), federation.wire.coding_down)

    names = (f"audit{number}" for number in count())

    def run(site: Site, factor: float) -> Floats:
        """One run's updates; the site's own account is not charged."""
        site, name = replace(site, account=weaken(site, _absent(site, len(records)), factor)), next(names)
        return np.concatenate([_update(site, name, state, number + 1) for number in range(federation.rounds.count)])

    def way(inside: Site, outside: Site) -> Floats:
        steps = [run(inside, 0.0) - run(outside, 0.0) for _ in range(REFERENCES)]
        return np.asarray(np.mean(steps, axis=0))

    for task, source in institution.data.items():
        check_limit(task, source.limit)
    inside = build_site(institution, federation, model)
    records = _records_by_owner(institution, model.tasks)
    if len(records) < 2:
        raise ConfigError(f"Expected at least two owners at {institution.name} to leave one out, but it has one.")
    chosen = list(records)[:: max(1, len(records) // CANDIDATES)][:CANDIDATES]
    announce(f"Finding which of {len(chosen)} owners changes the update most, without noise")
    outsides = [
        build_site(_without(institution, model.tasks, records[owner], workdir / f"owner-{n}"), federation, model)
        for n, owner in enumerate(chosen)
    ]
    ways = [way(inside, outside) for outside in outsides]
    most = int(np.argmax([np.linalg.norm(each) for each in ways]))
    announce(f"{len(included)} runs with or without that owner")
    scores = [run(inside if owned else outsides[most], noise_factor) @ ways[most] for owned in included]
    return np.array(scores), _reported(federation)


def _received(model: MultiTaskModel, federation: Federation, tasks: Collection[str]) -> Arrays:
    """What a coordinator sends of the model's state to an institution with these tasks."""
    state = {name: array for name, array in get_state(model).items() if is_received(name, federation.method)}
    return of_tasks(state, tasks)


def _update(site: Site, run: str, state: bytes, round: int) -> Floats:
    """What a site sends in a round that begins with `state`, as the coordinator decodes it: one long vector."""
    federation = site.federation
    request = TrainRequest(
        spec_digest=federation.digest, run=run, round=round, rounds=federation.rounds.count, state=state
    )
    reply = site.answer(request)
    if not isinstance(reply, TrainReply):
        raise ConfigError(f"Expected {site.name} to train, but it refused: {getattr(reply, 'reason', reply)}")
    arrays = codec.decode(reply.update, federation.wire.coding_up, of_tasks(site.shapes_sent(round), site.data))
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)]).astype(np.float64)


def _absent(site: Site, owners: int) -> dict[Key, Owner]:
    """Owners without records, so that the divisor of a step, which is public, is the same in both worlds."""
    assert site.account
    missing = owners - len(set(site.account.owners.values()))
    return {("", number): f"absent {number}" for number in range(missing)}


def _reported(federation: Federation) -> float:
    """The epsilon of all rounds, by an account without a ledger."""
    mechanism = mechanism_of_round(federation)
    return epsilon([mechanism] * federation.rounds.count, privacy_of(federation).delta)


def _records_by_owner(institution: Institution, tasks: Mapping[str, Task]) -> Mapping[Owner, set[Key]]:
    """By owner, tasks and numbers of the training records."""
    found: dict[Owner, set[Key]] = {}
    for task, source in sorted(institution.data.items()):
        for number, record in _rows(source, tasks[task]):
            found.setdefault(owner_of(record, tasks[task], source.group_by), set()).add((task, number))
    return found


def _rows(source: Data, task: Task, split: Split = "train") -> list[tuple[int, Record]]:
    """The records of a split as they stand in the source, numbered."""
    rows = enumerate(rows_of(paths_of(source)[split], task, source, split), start=1)
    return [(number, row) for number, (_, row) in rows if not isinstance(row, BadRow)]


def _without(
    institution: Institution, tasks: Mapping[str, Task], records: Collection[Key], folder: Path
) -> Institution:
    """The institution with training files that lack these records."""
    folder.mkdir(parents=True)
    data = dict(institution.data)
    for task in {task for task, _ in records}:
        source, files = data[task], dict[str, Path | None]()
        for split in paths_of(source):
            rows = _rows(source, tasks[task], split)
            left = [row for number, row in rows if split != "train" or (task, number) not in records]
            if not left:
                raise ConfigError(f"Expected records of other owners in task {task}, but there are none; add some.")
            files[split] = file = folder / f"{task}.{split}.jsonl"
            file.write_text("".join(json.dumps(record, default=str) + "\n" for record in left), encoding="utf-8")
        data[task] = source.as_written(**files)
    return institution.model_copy(update={"data": data})
