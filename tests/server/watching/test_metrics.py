"""The coordinator's figures are those of its store, its doors and its folder, and no label comes from elsewhere."""

import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import server.watching.metrics
import shared.watching.metrics
from server.home import ServerHome
from server.opening import open_store
from server.service.operator import Node
from server.store import Reply, Score, Store
from server.watching.metrics import AtTheDoor, metrics
from shared.federation import Federation, federation_toml, load_federation
from shared.state import State
from shared.watching.metrics import exposition

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]
SEEN = datetime(2026, 11, 29, 12, tzinfo=UTC)
DOOR = AtTheDoor(
    [Node(7, "hospital", "online", "SHA256:x", SEEN), Node(8, "law_firm", "offline", "SHA256:y", None)],
    [{"node_id": 7, "limit": "bytes", "times": 3}, {"node_id": 99, "limit": "bytes", "times": 1}],
    ready=True,
)


@pytest.fixture
def store(home: ServerHome, tiny_federation: Callable[..., Federation]) -> Iterator[Store]:
    """Of a coordinator with a run of three rounds, of which two are done."""
    agreed = tiny_federation(
        rounds={"count": 3, "weighting": "equal"}, training={"weight_decay": 0.0}, privacy={"epsilon": 8.0}
    )
    home.federation_file.write_text(federation_toml(agreed))
    with open_store(home.root) as opened:
        yield opened


def at(store: Store, home: ServerHome) -> Values:
    text = exposition(metrics(home, store, DOOR)).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for each in text_string_to_metric_families(text)
        for sample in each.samples
    }


def value(found: Values, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def two_rounds(store: Store, agreed: Federation) -> str:
    run = store.create_run(agreed)
    store.move_run(run, "running", attempt=2)
    for number in (1, 2):
        store.add_reply(run, Reply(number, "train", "hospital", "ok", bytes_up=1000, bytes_down=500, seconds=2.5))
        missing = Reply(number, "train", "law_firm", "missing", reason="the text of a reason")
        refused = Reply(number, "train", "law_firm", "refused", refusal="budget", reason="spent")
        store.add_reply(run, missing if number == 1 else refused)
        store.add_reply(run, Reply(number, "train", "stranger", "ok"))
        told = {"hospital": 0.5 + number / 10, "law_firm": 0.3}
        for name in told if number == 1 else ("hospital",):
            measured = (("macro_f1", told[name]), ("accuracy", 0.1))
            store.add_scores(run, [Score(number, "validation", name, "clauses", *each, 10) for each in measured])
        store.add_spending(run, number, "hospital", 1.5 * number, None)
        store.save_checkpoint(run, number, State({}))
        store.add_round(run, number, 10.0 * number, {number: told["hospital"]})
    return run


def test_the_figures_are_the_store_s(home: ServerHome, store: Store) -> None:
    agreed = _agreed(home)
    two_rounds(store, agreed)
    store.create_run(agreed)
    found = at(store, home)
    assert value(found, "collegium_runs", status="running") == value(found, "collegium_runs", status="queued") == 1
    assert value(found, "collegium_run_active") == 1
    assert value(found, "collegium_rounds_total") == value(found, "collegium_run_round") == 2
    assert value(found, "collegium_run_rounds_agreed") == 3
    assert value(found, "collegium_run_remaining_seconds") == 15.0
    assert value(found, "collegium_round_seconds_total") == 30.0
    assert value(found, "collegium_run_starts_total") == 2
    assert value(found, "collegium_institution_rounds_missed", institution="law_firm") == 2
    assert value(found, "collegium_institution_rounds_missed", institution="hospital") == 0
    assert value(found, "collegium_answers_total", institution="law_firm", request="train", status="missing") == 1
    assert value(found, "collegium_refusals_total", institution="law_firm", kind="budget") == 1
    assert value(found, "collegium_received_bytes_total", institution="hospital") == 2000
    assert value(found, "collegium_sent_bytes_total", institution="hospital") == 1000
    assert value(found, "collegium_answer_seconds_total", institution="hospital", request="train") == 5.0
    assert value(found, "collegium_epsilon_spent", institution="hospital") == 3.0
    assert value(found, "collegium_epsilon_agreed") == 8.0
    assert value(found, "collegium_run_best_round") == 2
    assert value(found, "collegium_run_best_score") == value(found, "collegium_round_score") == 0.7
    last = {"task": "clauses", "split": "validation"}
    assert value(found, "collegium_score", institution="hospital", **last) == 0.7
    assert value(found, "collegium_score", institution="law_firm", **last) == 0.3, "the last time that it was scored"


def test_the_figures_are_the_doors_and_the_folder_s(home: ServerHome, store: Store) -> None:
    found = at(store, home)
    assert value(found, "collegium_institution_online", institution="hospital") == 1
    assert value(found, "collegium_institution_online", institution="law_firm") == 0
    assert value(found, "collegium_institution_last_seen_timestamp_seconds", institution="hospital") == SEEN.timestamp()
    assert value(found, "collegium_door_refused_total", institution="hospital", limit="bytes") == 3
    days = (value(found, "collegium_certificate_expiry_timestamp_seconds", certificate="server") - time.time()) / 86400
    assert 820 < days < 826
    assert 0 < value(found, "collegium_disk_free_bytes") < value(found, "collegium_disk_size_bytes")
    assert value(found, "collegium_stored_bytes", what="store") > 0


def test_labels_are_names_that_are_known_and_nothing_that_somebody_wrote(home: ServerHome, store: Store) -> None:
    two_rounds(store, _agreed(home))
    labels = {pair for _, pairs in at(store, home) for pair in pairs}
    assert {name for key, name in labels if key == "institution"} == {"hospital", "law_firm"}
    assert not any("reason" in value or "spent" in value for _, value in labels)


def test_every_metric_of_the_code_is_told(home: ServerHome, store: Store) -> None:
    two_rounds(store, _agreed(home))
    named = set[str]()
    for module in (server.watching.metrics, shared.watching.metrics):
        named |= set(re.findall(r'"(collegium_\w+)"', Path(module.__file__ or "").read_text(encoding="utf-8")))
    assert named - {name for name, _ in at(store, home)} <= {"collegium_process_start_time_seconds"} | {
        "collegium_process_resident_memory_bytes"
    }, "the processes of a daemon are told of where there is one"
    for name in named:
        assert name.endswith(("_bytes", "_seconds", "_total")) or not re.search("bytes|seconds", name), name


def _agreed(home: ServerHome) -> Federation:
    return load_federation(home.federation_file)
