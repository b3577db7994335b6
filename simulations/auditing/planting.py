"""Putting canaries among the training data of a site, and weakening its noise."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.data.loading import TaskData, mark_known
from client.hashchain import Head
from client.privacy.account import Account
from client.privacy.owners import Private
from client.site import Site
from shared.tasks import Record
from simulations.auditing.canaries import OWNER

Bools = NDArray[np.bool_]


@dataclass
class Weakened(Account):
    """An account that reports the whole noise and adds only a share of it."""

    factor: float = 1.0

    @contextmanager
    def spend(self, *, round: int, run: str | None = None, known: Head | None = None) -> Iterator[Private]:
        """As the account does, with the noise multiplied by `factor`."""
        with super().spend(round=round, run=run, known=known) as private:
            yield replace(private, noise_multiplier=self.factor * private.noise_multiplier)


def plant(site: Site, task: str, records: Sequence[Record], included: Bools, factor: float) -> Site:
    """The site with those records that are in among its training data, each its own owner."""
    task_type, own = site.model.tasks[task], site.data[task]["train"]
    chosen = [record for record, inside in zip(records, included, strict=True) if inside]
    first = len(own.records)
    encoded = task_type.encode(chosen, site.model.tokenizer, site.federation.backbone.max_length)
    joined = [
        replace(example, record=first + example.record) for example in mark_known(encoded, task_type, own.annotates)
    ]
    train = TaskData((*own.records, *chosen), (*own.examples, *joined), own.annotates)
    owners = {(task, first + row): f"{OWNER} {row}" for row in range(len(chosen))}
    holdings = replace(site.holdings, data={**site.data, task: {**site.data[task], "train": train}})
    return replace(site, holdings=holdings, account=weaken(site, owners, factor) if site.account else None)


def weaken(site: Site, owners: Mapping[tuple[str, int], str], factor: float) -> Weakened:
    """The site's account with more owners and less noise."""
    account = site.account
    assert account
    return Weakened(account.federation, account.policy, {**account.owners, **owners}, account.dataset, factor=factor)
