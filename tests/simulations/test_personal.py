"""Parts kept at home and the final fine-tune: what travels, what is scored, and what each institution ends up with."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from client.institution import Data
from client.round.keep import Keep
from client.round.requests import Asked
from client.site import Site
from server.release.making import release
from server.rounds.outcomes import primary_outcomes
from server.store import Store, scores
from shared import codec, protocol
from shared.adapter import get_state, is_sent
from shared.bundle import load_bundle
from shared.codec import Arrays
from shared.errors import ConfigError
from shared.federation import Federation
from shared.model.multitask import build_model
from shared.protocol import EvaluateRequest, TrainRequest
from simulations.engine import LocalGrid, run_on
from simulations.experiment import Experiment, open_sites
from simulations.results import means, rows_of

TWO = ("hospital", "law_firm")
THREE = ("bank", *TWO)
SWAPPED = {"payment": "liability", "liability": "payment"}
LONG = {"epochs_per_round": 6, "learning_rate": 1e-2, "head_dropout": 0.0, "warmup": 0.0, "schedule": "constant"}


class Listening(LocalGrid):
    """Keeps every request and reply."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        super().__init__(sites)
        self.said: list[tuple[str, Any, Any]] = []

    def _deliver(self, message: Message) -> Message:
        request = protocol.decode(message.content, *protocol.MESSAGE_TYPES)
        reply = super()._deliver(message)
        name = self._names[message.metadata.dst_node_id]
        self.said.append((name, request, protocol.decode(reply.content, *protocol.REPLIES)))
        return reply

    @property
    def travelled(self) -> set[str]:
        """The names of all arrays in requests and replies."""
        names: set[str] = set()
        for _, request, reply in self.said:
            for kind, blob in [*protocol.blobs_of(request).items(), *protocol.blobs_of(reply).items()]:
                if kind in ("state", "base") or isinstance(reply, protocol.TrainReply):
                    names |= codec.decode(blob, "float32").keys() if blob else set()
        return names


@pytest.fixture
def make(
    tmp_path: Path, tiny_federation: Callable[..., Federation], write_records: Callable[..., Path]
) -> Callable[..., Experiment]:
    """An experiment of institutions with clauses, or of two that label the same clauses the other way round."""

    def make(names: tuple[str, ...] = TWO, *, contradicting: bool = False, **tables: Any) -> Experiment:
        tasks = {"clauses": {"type": "text-classification", "labels": list(SWAPPED)}}
        federation = tiny_federation(names, **tables).model_dump(mode="json") | {"tasks": tasks}
        data = {}
        for number, name in enumerate(names):
            files = {}
            for split, part in (
                ("train", slice(0, None, 2)),
                ("validation", slice(1, None, 4)),
                ("test", slice(3, 24, 4)),
            ):
                file = write_records(tmp_path / name / f"{split}.jsonl", "clauses", part)
                if contradicting and number:
                    records = [json.loads(line) for line in file.read_text().splitlines()]
                    file.write_text("".join(json.dumps(r | {"label": SWAPPED[r["label"]]}) + "\n" for r in records))
                files[split] = file
            data[name] = {"clauses": Data.model_validate(files)}
        return Experiment(federation=Federation.model_validate(federation), institutions=data)

    return make


def remembering(site: Site, **changes: Any) -> Site:
    """The site with another memory of some kind."""
    return replace(site, memory=replace(site.memory, **changes))


@pytest.fixture
def run(store: Store) -> Callable[..., tuple[str, Listening]]:
    """Runs an experiment, with the sites' memories in folders if told where."""

    def run(experiment: Experiment, keep: Path | None = None) -> tuple[str, Listening]:
        federation = experiment.federation
        model = build_model(federation)
        initial: Arrays = get_state(model)
        sites = open_sites(experiment, model)
        if keep:
            sites = {name: remembering(site, keep=Keep(keep / name)) for name, site in sites.items()}
        grid = Listening(sites)
        return run_on(grid, federation, initial, store), grid

    return run


def by_institution(store: Store, run_id: str) -> dict[str, tuple[float | None, float | None]]:
    return {row.institution: (row.after, row.personal) for row in primary_outcomes(store, run_id)}


@pytest.mark.parametrize(
    ("method", "keep", "forbidden"),
    [
        ("fedavg", ["heads"], ("head/",)),
        ("fedex", ["heads"], ("head/",)),
        ("rolora", ["heads"], ("head/",)),
        ("fedavg", ["B"], (".lora_B.",)),
        ("fedrot", ["B", "heads"], (".lora_B.", "head/")),
        ("fedsa", [], (".lora_B.", "head/")),
    ],
)
def test_what_stays_at_home_never_travels(
    make: Callable[..., Experiment],
    run: Callable[..., Any],
    method: str,
    keep: list[str],
    forbidden: tuple[str, ...],
) -> None:
    _, grid = run(make(rounds={"method": method}, personal={"keep": keep}))
    assert any(".lora_A." in name for name in grid.travelled)
    assert ("head/" in forbidden) != any(name.startswith("head/") for name in grid.travelled)
    assert not [name for name in grid.travelled for part in forbidden if part in name]
    trained = [reply for _, request, reply in grid.said if isinstance(request, TrainRequest)]
    assert len(trained) == 4
    assert all(isinstance(reply, protocol.TrainReply) for reply in trained)


def test_contradicting_labels_need_heads_of_ones_own(
    make: Callable[..., Experiment], run: Callable[..., Any], store: Store
) -> None:
    plain, _ = run(make(contradicting=True, training=LONG))
    told = by_institution(store, plain)
    assert {personal for _, personal in told.values()} == {None}
    right = [r["value"] for r in store.rows(scores, plain) if (r["metric"], r["split"]) == ("accuracy", "test")]
    assert sum(right[-2:]) / 2 == pytest.approx(0.5)  # whatever it answers, it is right for one of the two
    own, _ = run(make(contradicting=True, training=LONG, personal={"keep": ["heads"]}))
    assert by_institution(store, own) == {"hospital": (None, 1.0), "law_firm": (None, 1.0)}
    tuned, _ = run(make(contradicting=True, training=LONG, personal={"fine_tune_epochs": 12}))
    assert {name: after for name, (after, _) in by_institution(store, tuned).items()} == {
        name: after for name, (after, _) in told.items()
    }
    assert all(personal == pytest.approx(1.0) for _, personal in by_institution(store, tuned).values())


def test_both_scores_stand_in_the_table(make: Callable[..., Experiment], run: Callable[..., Any], store: Store) -> None:
    both, _ = run(make(personal={"fine_tune_epochs": 1}))
    rows = rows_of(store, both)
    assert all(row.after is not None and row.final == row.personal for row in rows)
    assert list(means(rows)) == ["before", "after", "personal"]
    kept, _ = run(make(personal={"keep": ["heads"]}))
    rows = rows_of(store, kept)
    assert list(means(rows)) == ["before", "personal"]
    assert "after" not in rows[0].as_dict()
    assert {row["split"] for row in store.rows(scores, kept) if row["round"] == 0} == {"test"}
    plain, _ = run(make())
    assert list(means(rows_of(store, plain))) == ["before", "after"]


def test_who_has_no_test_records_is_brought_the_model_too(
    make: Callable[..., Experiment], run: Callable[..., Any], store: Store
) -> None:
    experiment = make()
    data = experiment.institutions["law_firm"]["clauses"].model_copy(update={"test": None})
    held = {**experiment.institutions, "law_firm": {"clauses": data}}
    plain, grid = run(experiment.model_copy(update={"institutions": held}))
    last = [name for name, request, _ in grid.said if isinstance(request, EvaluateRequest) and request.released]
    assert sorted(last) == list(TWO)
    assert by_institution(store, plain).keys() == {"hospital"}


def test_fine_tuning_leaves_the_federation_as_it_was(
    make: Callable[..., Experiment], run: Callable[..., Any], store: Store
) -> None:
    experiment = make(rounds={"method": "fedsa"}, personal={"fine_tune_epochs": 2})
    _, grid = run(experiment)
    (name, asked, first) = next(said for said in grid.said if isinstance(said[1], EvaluateRequest) and said[1].released)
    site = grid._sites[next(node for node, of in grid._names.items() if of == name)]
    plain = replace(asked, split="validation", released=False)
    site = remembering(site, asked=Asked())  # it remembers nothing, and computes every answer
    before = site.answer(plain)
    train = next(request for of, request, _ in grid.said if of == name and isinstance(request, TrainRequest))
    trained = site.answer(train)
    again = site.answer(asked)
    assert isinstance(before, protocol.EvaluateReply)
    assert isinstance(again, protocol.EvaluateReply)
    assert again.scores == first.scores
    site = remembering(site, asked=Asked())
    after, retrained = site.answer(plain), site.answer(train)
    assert isinstance(after, protocol.EvaluateReply)
    assert isinstance(trained, protocol.TrainReply)
    assert isinstance(retrained, protocol.TrainReply)
    assert retrained.update == trained.update
    assert all(
        kept.parts.keys() == {"home"} for number in (1, 2) if (kept := site.memory.keep.upto(train.run, number)).parts
    )  # nothing of the fine-tune is remembered


def test_a_restarted_site_goes_on_as_one_that_was_not(
    make: Callable[..., Experiment], run: Callable[..., Any], store: Store, tmp_path: Path
) -> None:
    experiment = make(rounds={"method": "fedsa", "count": 3})
    whole, grid = run(experiment, tmp_path / "one")
    requests = [(name, request) for name, request, _ in grid.said if not isinstance(request, protocol.QueryRequest)]
    replies = []
    for name, request in requests:  # a new process for every request
        site = open_sites(experiment, build_model(experiment.federation))[name]
        replies.append(remembering(site, keep=Keep(tmp_path / "other" / name)).answer(request))
    expected = [reply for _, request, reply in grid.said if not isinstance(request, protocol.QueryRequest)]
    assert len(replies) == len(expected) > 10
    for one, other in zip(replies, expected, strict=True):
        if isinstance(one, protocol.TrainReply):
            assert one.update == other.update
        else:
            assert isinstance(one, protocol.EvaluateReply)
            assert one.scores == other.scores
    for name in TWO:
        for number in (1, 2, 3):
            mine, theirs = (Keep(tmp_path / of / name).upto(whole, number).home for of in ("one", "other"))
            assert mine.keys() == theirs.keys()
            assert all(np.array_equal(mine[key], theirs[key]) for key in mine)


def test_a_round_trained_twice_begins_twice_from_the_same(
    make: Callable[..., Experiment], run: Callable[..., Any], tmp_path: Path
) -> None:
    _, grid = run(make(rounds={"method": "fedsa"}), tmp_path / "kept")
    (name, request, reply) = [said for said in grid.said if isinstance(said[1], TrainRequest)][-1]
    site = grid._sites[next(node for node, of in grid._names.items() if of == name)]
    home = site.memory.keep.upto(request.run, 2).home
    again = site.answer(request)
    assert isinstance(again, protocol.TrainReply)
    assert again.update == reply.update
    keep = site.memory.keep
    assert all(np.array_equal(array, home[key]) for key, array in keep.upto(request.run, 2).home.items())
    assert any(not np.array_equal(array, home[key]) for key, array in keep.upto(request.run, 1).home.items())


@pytest.mark.parametrize("method", ["fedavg", "fedsa"])
def test_secure_aggregation_of_what_is_shared(
    make: Callable[..., Experiment], run: Callable[..., Any], store: Store, method: str
) -> None:
    tables = {"rounds": {"method": method, "count": 1, "quorum": 3}, "personal": {"keep": ["heads"]}}
    plain, _ = run(make(THREE, **tables))
    secure, grid = run(make(THREE, **tables, secure_aggregation={"threshold": 3}))
    assert not any(isinstance(reply, protocol.TrainReply) for _, _, reply in grid.said)
    masked = {len(reply.update) for _, _, reply in grid.said if isinstance(reply, protocol.MaskReply)}
    trained, state = make(THREE, **tables).federation.method, store.load_checkpoint(secure, 1).model
    sizes = [array.size + 1 for name, array in state.items() if is_sent(name, trained, 1)]  # and its weight
    assert masked == {4 * sum(sizes)}, "no head is in a masked update"
    one, other = store.load_checkpoint(plain, 1).model, store.load_checkpoint(secure, 1).model
    assert max(float(np.abs(one[name] - other[name]).max()) for name in one) < 2**-20
    assert any(not np.array_equal(one[name], store.load_checkpoint(plain, 0).model[name]) for name in one)
    for name in THREE:
        assert by_institution(store, plain)[name] == by_institution(store, secure)[name]


def test_a_release_holds_what_is_global_and_no_more(
    make: Callable[..., Experiment], run: Callable[..., Any], store: Store, tmp_path: Path
) -> None:
    heads, _ = run(make(personal={"keep": ["heads"]}))
    bundle = load_bundle(release(store, heads, tmp_path / "bundle"))
    assert bundle.tasks == []
    assert all(name.startswith("adapter/") for name in bundle.arrays)
    readme = (tmp_path / "bundle" / "README.md").read_text()
    assert "no task head" in readme
    assert "| institution | task | metric | before | personal |" in readme
    assert "collegium predict" not in readme
    halves, _ = run(make(rounds={"method": "fedsa"}))
    with pytest.raises(ConfigError, match="collegium client bundle"):
        release(store, halves, tmp_path / "other")
    assert not (tmp_path / "other").exists()
