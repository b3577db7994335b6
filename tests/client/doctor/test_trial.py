"""A piece of a round, tried: what is measured holds for every kind of agreement, and nothing is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from client.doctor import trial as trials
from client.doctor.trial import measure
from client.institution import load_institution
from client.keys import generate_node_key
from client.opening import open_site
from client.privacy.account import mechanism_of_round, open_ledger
from client.privacy.accounting import epsilon
from shared import codec
from shared.adapter import get_state, of_tasks
from shared.federation import Federation
from shared.protocol import TrainReply, TrainRequest

PRIVATE: dict[str, Any] = {
    "privacy": {"epsilon": 8.0, "sampling_rate": 0.5},
    "rounds": {"weighting": "equal", "count": 2},
    "training": {"weight_decay": 0.0, "head_dropout": 0.0},
    "adapter": {"dropout": 0.0},
}
MakeSite = Callable[..., Path]


@pytest.fixture
def site(tmp_path: Path, tiny_federation: Callable[..., Federation], write_records: Callable[..., Path]) -> MakeSite:
    """Writes a site's files, under an agreement with these tables."""

    def make(**tables: Any) -> Path:
        federation = tiny_federation(["hospital"], **tables).model_dump(mode="json", exclude_none=True)
        (tmp_path / "federation.toml").write_text(tomli_w.dumps(federation), encoding="utf-8")
        write_records(tmp_path / "train.jsonl", "clauses", slice(0, None, 2))
        write_records(tmp_path / "validation.jsonl", "clauses", slice(1, None, 2))
        data = {"clauses": {"train": "train.jsonl", "validation": "validation.jsonl"}}
        path = tmp_path / "institution.toml"
        path.write_text(tomli_w.dumps({"name": "hospital", "data": data}), encoding="utf-8")
        generate_node_key(tmp_path / "node.key")
        return path

    return make


def names(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def test_bytes_are_those_of_a_real_round_and_nothing_is_written(site: MakeSite, tmp_path: Path) -> None:
    path = site(wire={"up": "int8"}, training={"batch_tokens": 64})
    before = names(tmp_path)
    found = measure(path)
    assert names(tmp_path) == before
    assert found.train_seconds > 0 < found.score_seconds
    assert found.timed_tokens == found.tokens  # a tiny site is tried whole
    assert 0 < found.largest_tokens <= 64
    assert found.peak_bytes > 10**8
    assert found.spending is None
    real = open_site(path)
    state = of_tasks(get_state(real.model), real.data)
    blob = codec.encode(state, real.federation.wire.coding_down, np.random.default_rng(0))
    request = TrainRequest(
        spec_digest=real.federation.digest, run="1", round=1, rounds=real.federation.rounds.count, state=blob
    )
    reply = real.answer(request)
    assert isinstance(reply, TrainReply), reply
    assert abs(found.bytes_up - len(reply.update)) <= 16
    assert abs(found.bytes_down - len(blob)) <= 16


def test_epsilon_goes_on_from_what_the_ledger_has(site: MakeSite) -> None:
    path = site(**PRIVATE)
    institution, federation = load_institution(path), open_site(path).federation
    mechanism, dataset = mechanism_of_round(federation), open_site(path).account
    assert dataset
    first = measure(path).spending
    assert first
    assert first.spent == 0 < first.round < first.run == first.after <= 8.0
    open_ledger(institution).reserve(
        dataset.dataset, mechanism, delta=1e-5, max_epsilon=100.0, federation=federation.digest, run=None, round=1
    )
    again = measure(path).spending
    assert again
    assert again.spent == epsilon([mechanism], 1e-5)
    assert again.after == epsilon([mechanism] * 3, 1e-5) > again.run


@pytest.mark.parametrize(
    "tables",
    [
        {"rounds": {"method": "fedex"}},
        {"rounds": {"method": "rolora"}, "wire": {"up": "top-k", "top_k": 0.5}},
        {"adapter": {"type": "adalora"}, "rounds": {"method": "auto", "count": 8}},
        {"training": {"scaffold": True, "optimizer": "sgd", "momentum": 0.0}, "rounds": {"weighting": "equal"}},
        {"personal": {"keep": ["heads"]}},
    ],
    ids=lambda tables: "-".join(tables),
)
def test_every_kind_of_agreement_can_be_tried(site: MakeSite, tables: dict[str, Any]) -> None:
    found = measure(site(**tables))
    assert found.bytes_up > 0 < found.bytes_down
    assert found.train_seconds > 0


def test_a_part_is_timed_and_counts_for_all(site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    path = site(training={"batch_tokens": 16, "epochs_per_round": 2})
    monkeypatch.setattr(trials, "SECONDS", 0.0)
    found = measure(path)
    assert found.timed_tokens < found.tokens
    path.with_name("federation.toml").write_text(
        path.with_name("federation.toml")
        .read_text()
        .replace("batch_tokens = 16", "batch_tokens = 16\nmax_seconds = 1e-6")
    )
    assert measure(path).train_seconds == 1e-6


def test_what_is_printed_is_read_again(site: MakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    trials.main(str(site(**PRIVATE)))
    printed = capsys.readouterr().out
    found = trials.parse_trial(printed)
    assert isinstance(found, trials.Trial)
    assert found.spending
    assert json.loads(printed)["trial"]["spending"]["allowed"] == 8.0
