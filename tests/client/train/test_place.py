"""A round that is cut off goes on where it was, and ends as if nothing had happened."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.site import Site
from client.train import trainer
from client.train.hooks import Hook
from client.train.place import Place
from shared.adapter import get_state, set_state
from shared.model.multitask import MultiTaskModel

MakeSite = Callable[..., Site]
TRAINING = {"epochs_per_round": 4, "batch_tokens": 100, "head_dropout": 0.1, "learning_rate": 1e-2}


class KilledError(Exception):
    pass


class DiesAt(Hook):
    """Raises after so many steps of this process."""

    def __init__(self, steps: int | None) -> None:
        self.left, self.taken = steps, 0

    def after_step(self, done: int, steps: int) -> None:
        self.taken += 1
        if self.left is not None and self.taken == self.left:
            raise KilledError


def train(site: Site, file: Path | None, *, hooks: Collection[Hook] = (), about: bytes = b"round 1") -> trainer.Outcome:
    place = Place(file, about, seconds=0.0) if file else None
    return trainer.train(
        site.model, site.examples("train"), site.federation.training, seed=5, hooks=list(hooks), place=place
    )


@pytest.mark.parametrize(
    "more",
    [{}, {"combine": "uncertainty"}, {"proximal_mu": 0.1}, {"optimizer": "sgd", "learning_rate": 0.5}],
    ids=lambda more: "-".join(more) or "plain",
)
def test_a_round_cut_off_anywhere_ends_as_if_it_had_not_been(
    make_site: MakeSite, tmp_path: Path, more: dict[str, Any]
) -> None:
    site = make_site("clauses", "entities", training=TRAINING | more)
    begin = get_state(site.model)
    calm = train(site, None)
    undisturbed = get_state(site.model)
    per_epoch = calm.steps // 4
    assert per_epoch >= 3
    for steps in (1, per_epoch, per_epoch + 1, 3 * per_epoch - 1):
        set_state(site.model, begin)
        with pytest.raises(KilledError):
            train(site, tmp_path / "place.pt", hooks=[DiesAt(steps)])
        set_state(site.model, begin)  # as a new process receives it
        rest = DiesAt(None)
        wild = train(site, tmp_path / "place.pt", hooks=[rest])
        assert rest.taken == calm.steps - (steps - 1) // per_epoch * per_epoch
        assert (wild.steps, wild.losses, wild.rates) == (calm.steps, calm.losses, calm.rates)
        assert wild.balance == calm.balance
        for name, array in get_state(site.model).items():
            np.testing.assert_array_equal(array, undisturbed[name], err_msg=name)
        (tmp_path / "place.pt").unlink()


def test_a_finished_round_that_is_asked_for_again_takes_no_step(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site("clauses", training=TRAINING)
    begin = get_state(site.model)
    first = train(site, tmp_path / "place.pt")
    after = get_state(site.model)
    set_state(site.model, begin)
    steps = DiesAt(None)
    assert train(site, tmp_path / "place.pt", hooks=[steps]).losses == first.losses
    assert steps.taken == 0
    for name, array in get_state(site.model).items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)


@pytest.mark.parametrize("other", ["round", "records", "damaged", "hook"])
def test_of_anything_else_it_is_no_place(make_site: MakeSite, tmp_path: Path, other: str) -> None:
    site = make_site("clauses", training=TRAINING)
    begin, file = get_state(site.model), tmp_path / "place.pt"
    hooks = [Remembers()] if other == "hook" else []
    train(site, file, hooks=hooks)
    set_state(site.model, begin)
    steps = DiesAt(None)
    about = b"round 2" if other == "round" else b"round 1"
    if other == "damaged":
        file.write_bytes(file.read_bytes()[:-100])
    if other == "records":
        examples = site.examples("train")[1:]
        trainer.train(
            site.model,
            examples,
            site.federation.training,
            seed=5,
            hooks=[steps],
            place=Place(file, about, seconds=0.0),
        )
    else:
        train(site, file, hooks=[*hooks, steps], about=about)
    assert steps.taken > 3


class Remembers(Hook):
    remembers = True

    def begin(self, model: MultiTaskModel, tasks: Collection[str]) -> None:
        pass


def test_it_is_not_written_all_the_time(make_site: MakeSite, tmp_path: Path) -> None:
    site, now = make_site("clauses", training=TRAINING), iter(range(0, 1000, 2))
    file, written = tmp_path / "place.pt", list[int]()

    class Counted(Hook):
        def after_step(self, done: int, steps: int) -> None:
            if file.exists():
                written.append(file.stat().st_mtime_ns)

    place = Place(file, b"", seconds=5.0, clock=lambda: float(next(now)))
    training = site.federation.training.model_copy(update={"epochs_per_round": 9})
    trainer.train(site.model, site.examples("train"), training, seed=5, hooks=[Counted()], place=place)
    assert 1 <= len(set(written)) <= 3


def test_a_disk_that_refuses_costs_no_round(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site("clauses", training=TRAINING)
    (tmp_path / "file").write_bytes(b"")
    assert train(site, tmp_path / "file" / "place.pt").steps > 3
