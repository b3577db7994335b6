"""The agreement against those who are enrolled and against the store: each check, well and not."""

from collections.abc import Callable

import pytest

from server.doctor.federation import check_enrolled, check_keys, check_labels, check_runs, latest
from server.home import ServerHome
from server.opening import open_store
from server.service.operator import Node
from shared.federation import Federation
from shared.nodekeys import fingerprint
from simulations.nodekeys import public_keys

MakeFederation = Callable[..., Federation]
NAMES = ("hospital", "law_firm", "bank")


def nodes(*names: str) -> list[Node]:
    """Those enrolled."""
    lines = public_keys(names)
    return [Node(number, name, "online", fingerprint(lines[name]), None) for number, name in enumerate(names)]


@pytest.mark.parametrize(
    ("enrolled", "verdict", "said"),
    [
        (NAMES, "ok", "All 3 institutions are enrolled, 3 of them online."),
        (NAMES[:2], "warning", "bank of the federation file is not enrolled."),
        (NAMES[:1], "error", "bank, law_firm of the federation file are not enrolled."),
        ((*NAMES, "clinic"), "warning", "clinic enrolled and not in the federation file."),
    ],
)
def test_enrolled(tiny_federation: MakeFederation, enrolled: tuple[str, ...], verdict: str, said: str) -> None:
    federation = tiny_federation(NAMES, rounds={"quorum": 2})
    found = check_enrolled(federation, nodes(*enrolled))
    assert (found.verdict, found.text) == (verdict, said)


def test_who_cannot_be_asked_is_not_known(tiny_federation: MakeFederation) -> None:
    assert check_enrolled(tiny_federation(NAMES), None).verdict == "warning"


def test_keys(tiny_federation: MakeFederation) -> None:
    assert check_keys(tiny_federation(NAMES), nodes(*NAMES)) is None
    keys = public_keys(NAMES)
    tables = {"rounds": {"quorum": 3, "method": "fedavg"}}
    federation = tiny_federation(NAMES, **tables, secure_aggregation={"threshold": 3, "keys": keys})
    found = check_keys(federation, nodes(*NAMES))
    assert found
    assert found.verdict == "ok"
    others = keys | {"bank": public_keys(["stranger"])["stranger"]}
    wrong = check_keys(
        tiny_federation(NAMES, **tables, secure_aggregation={"threshold": 3, "keys": others}), nodes(*NAMES)
    )
    assert wrong
    assert (wrong.verdict, "bank" in wrong.text) == ("error", True)
    assert check_keys(federation, None) is None


def test_runs_and_labels(home: ServerHome, tiny_federation: MakeFederation) -> None:
    federation = tiny_federation()
    assert check_runs(None, federation).verdict == check_labels(None).verdict == "ok"
    with open_store(home.root) as store:
        assert latest(store) is None
        run = store.create_run(federation)
        assert (check_runs(store, federation).verdict, run in check_runs(store, federation).text) == ("warning", True)
        store.update_run(run, status="completed", ended="2026-11-29T12:00:00+00:00")
        assert "it was under this agreement" in check_runs(store, federation).text
        assert "under another agreement" in check_runs(store, tiny_federation(seed=99)).text
        store.add_event(run, "hospital takes part with clauses (12)")
        assert check_labels(store).verdict == "ok"
        store.add_event(run, "No institution has a training record with 'Drug' of entities")
        found = check_labels(store)
        assert (found.verdict, "'Drug' of entities" in found.text) == ("warning", True)
        assert latest(store) is not None
