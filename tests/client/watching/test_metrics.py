"""An institution's figures are those of its receipts, its outbox and its files."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import client.watching.metrics
from client.institution import Data, Institution, Runtime, Server
from client.leaving.receipts import FILE
from client.policy import Policy
from client.watching.metrics import Left, Link, metrics
from server.enrolment.authority import create_authority
from shared.federation import Federation, federation_toml
from shared.watching.metrics import Process, exposition


@pytest.fixture
def site(tmp_path: Path, tiny_federation: Callable[..., Federation]) -> Institution:
    (tmp_path / "state").mkdir()
    (tmp_path / "ca.crt").write_bytes(create_authority().certificate)
    private = tiny_federation(rounds={"weighting": "equal"}, training={"weight_decay": 0.0}, privacy={"epsilon": 8.0})
    (tmp_path / "federation.toml").write_text(federation_toml(private))
    return Institution(
        name="hospital",
        federation=tmp_path / "federation.toml",
        server=Server(ca=tmp_path / "ca.crt"),
        data={"entities": Data(train=tmp_path / "x.jsonl")},
        runtime=Runtime(state=tmp_path / "state"),
    )


def receipt(kind: str, size: int, round: int | None = None, epsilon: float | None = None) -> bytes:
    told = {"kind": kind, "bytes": size, "round": round, "epsilon": epsilon, "time": "2026-11-29T12:00:00.000+00:00"}
    return json.dumps(told).encode() + b"\n"


def figures(site: Institution, link: Link, left: Left) -> dict[str, float]:
    text = exposition(metrics(site, link, left)).decode()
    return {
        sample.name + "".join(f" {value}" for key, value in sample.labels.items() if key != "version"): sample.value
        for each in text_string_to_metric_families(text)
        for sample in each.samples
    }


def test_what_has_left_is_counted_once_as_it_is_written(site: Institution) -> None:
    left, log = Left(site), site.runtime.state / FILE
    assert "collegium_site_round" not in figures(site, Link(), left)
    log.write_bytes(receipt("query", 10) + receipt("train", 1000, 1, 2.0) + receipt("train", 7)[:9])
    found = figures(site, Link(), left)
    assert (found["collegium_site_answers_total train"], found["collegium_site_sent_bytes_total"]) == (1, 1010)
    log.write_bytes(receipt("query", 10) + receipt("train", 1000, 1, 2.0) + receipt("train", 1000, 2, 3.0))
    found = figures(site, Link(), left)
    assert found["collegium_site_answers_total train"] == found["collegium_site_round"] == 2
    assert found["collegium_site_sent_bytes_total"] == 2010
    assert found["collegium_site_last_answer_timestamp_seconds"] == 1795953600
    assert found["collegium_site_epsilon_spent"] == 3.0
    assert (found["collegium_site_epsilon_budget"], found["collegium_site_epsilon_left"]) == (8.0, 5.0)
    log.write_bytes(receipt("refusal", 5))
    assert figures(site, Link(), left)["collegium_site_sent_bytes_total"] == 5, "a log that was begun anew"


def test_the_policy_s_budget_comes_before_the_agreement_s(site: Institution) -> None:
    site = site.model_copy(update={"policy": Policy(max_epsilon=4.0)})
    assert figures(site, Link(), Left(site))["collegium_site_epsilon_left"] == 4.0


def test_what_a_process_said_that_has_ended_since_holds_no_more() -> None:
    link = Link(connected_since=1000.0, ready_since=1000.0)
    before, after = {"supernode": Process(1, 990.0)}, {"supernode": Process(1, 1010.0), "executor": Process(1, 990.0)}
    assert (link.connected(before), link.connected(after), link.connected({})) == (True, False, False)
    assert (link.ready(before), link.ready(after)) == (False, True)
    assert not Link().connected(before)


def test_every_metric_of_the_code_is_told(site: Institution) -> None:
    (site.runtime.state / FILE).write_bytes(receipt("train", 1000, 1, 2.0))
    named = re.findall(r'"(collegium_\w+)"', Path(client.watching.metrics.__file__).read_text(encoding="utf-8"))
    assert set(named) <= {name.split()[0] for name in figures(site, Link(), Left(site))}


def test_scores_of_an_earlier_round_that_is_released_are_no_step_back(site: Institution) -> None:
    (site.runtime.state / FILE).write_bytes(receipt("train", 1000, 2) + receipt("evaluate", 10, 1))
    assert figures(site, Link(), Left(site))["collegium_site_round"] == 2
