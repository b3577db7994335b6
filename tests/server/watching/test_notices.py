"""What the coordinator's operator hears of, once each, and nothing that anybody wrote."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from server.enrolment import certificates
from server.enrolment.certificates import DaysLeft
from server.home import ServerHome
from server.opening import open_store
from server.rounds.run import Run
from server.store import Reply, Store
from server.watching import notices
from server.watching.notices import Finder
from shared.errors import QuorumError
from shared.federation import Federation

SECRET = "the text of a reason"


@pytest.fixture
def store(home: ServerHome) -> Iterator[Store]:
    with open_store(home.root) as opened:
        yield opened


def found(finder: Finder, since: float = 0.0) -> list[str]:
    told = list(finder(since))
    assert not any(SECRET in each.title + each.text for each in told)
    return [each.title for each in told]


def test_the_end_of_a_run_is_told_if_it_came_after_notices_were_asked_for(
    home: ServerHome, store: Store, tiny_federation: Callable[..., Federation]
) -> None:
    one, two = store.create_run(tiny_federation()), store.create_run(tiny_federation())
    finder = Finder(home, store)
    assert found(finder) == []
    store.move_run(one, "failed", reason=SECRET)
    store.move_run(two, "completed")
    assert found(finder) == [f"Run {one} has failed", f"Run {two} has completed"]
    assert len({each.key for each in finder(0.0)}) == 2
    assert found(finder, time.time() + 1) == []
    store.move_run(one, "queued", of=("failed",))
    assert found(finder) == [f"Run {two} has completed"]


def test_a_run_without_its_quorum_is_told_of(
    home: ServerHome, store: Store, tiny_federation: Callable[..., Federation]
) -> None:
    agreed = tiny_federation(rounds={"quorum": 2})
    run, finder = store.create_run(agreed), Finder(home, store)
    mine = Run(cast(Any, None), agreed, store, run, lambda text: None, cast(Any, None))
    with pytest.raises(QuorumError) as raised:
        mine.require_quorum(1, [])
    store.add_event(run, "Interrupted: The run's process has died.")
    assert found(finder) == []
    store.add_event(run, f"Interrupted: {raised.value} Try 1 of 3 begins in 1 s")
    assert found(finder) == [f"Run {run} lacks its quorum"]
    assert found(finder) == [], "until it happens again"


def test_who_is_absent_and_whose_budget_is_spent(
    home: ServerHome, store: Store, tiny_federation: Callable[..., Federation]
) -> None:
    run, finder = store.create_run(tiny_federation()), Finder(home, store)
    for number in (1, 2, 3):
        assert found(finder) == ([] if number == 1 else ["The budget of hospital is exhausted"])
        store.add_reply(run, Reply(number, "train", "law_firm", "missing", reason=SECRET))
        store.add_reply(run, Reply(number, "train", "hospital", "refused", refusal="budget", reason=SECRET))
    assert found(finder) == [
        "hospital is absent",
        "law_firm is absent",
        "The budget of hospital is exhausted",
    ]
    store.move_run(run, "completed")
    assert found(finder) == [f"Run {run} has completed"]


def test_a_certificate_that_ends_soon(home: ServerHome, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert certificates.look(home).server > 30
    monkeypatch.setattr(notices, "look", lambda home: DaysLeft(29, 3000))
    assert found(Finder(home, store)) == ["The certificate of the server ends soon"]


def test_the_file_of_addresses_starts_from_the_folder(home: ServerHome) -> None:
    from server.home import read_settings

    home.settings_file.write_text('notify = "secrets/notify.urls"\n' + home.settings_file.read_text())
    assert home.root / (read_settings(home).notify or Path()) == home.secrets / "notify.urls"
