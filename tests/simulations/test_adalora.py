"""A federation whose layers get ranks: what is pruned stays so, travels no more, and is the same after a crash."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import BertModel

from client.institution import Data, Institution
from client.opening import build_site
from client.site import Site
from server.aggregation.adalora import budget, mean_importance, prune
from server.release.making import release
from server.store import Store, events, replies
from shared import codec, protocol
from shared.adapter import factor_name, factor_of, get_state, layer_of, set_state
from shared.bundle import load_bundle
from shared.codec import Arrays
from shared.errors import StoreError
from shared.federation import Federation
from shared.model.allocation import ranks_left, ranks_of
from shared.model.lora import factors, lora_layers
from shared.model.multitask import build_model
from shared.state import pack_state, unpack_update
from simulations.engine import LocalGrid, run_on

ROUNDS = {"count": 4, "quorum": 2}
ADAPTER = {"type": "adalora", "rank": 4, "target_rank": 2, "warmup_rounds": 1, "final_rounds": 1}
Made = tuple[Federation, dict[str, Site], Arrays]
Make = Callable[..., Made]


class Tap(LocalGrid):
    """The simulator's Grid, which keeps every state that is sent and every update that comes, by round and name."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        super().__init__(sites)
        self.told: dict[tuple[int, str], Arrays] = {}
        self.came: dict[tuple[int, str], Arrays] = {}
        self.bytes: dict[tuple[int, str], int] = {}
        self.change: Callable[[Arrays], Arrays] = lambda arrays: arrays

    def _deliver(self, message: Message) -> Message:
        reply = super()._deliver(message)
        if message.metadata.message_type == "train":
            request = protocol.decode(message.content, protocol.TrainRequest)
            answer = protocol.decode(reply.content, protocol.TrainReply)
            key = request.round, answer.institution
            self.told[key] = codec.decode(request.state, "float32")
            self.came[key] = self.change(codec.decode(answer.update, "float32"))
            self.bytes[key] = len(answer.update)
            update = codec.encode(self.came[key], "float32")
            return Message(protocol.encode(protocol.TrainReply(**vars(answer) | {"update": update})), reply_to=message)
        return reply


@pytest.fixture
def make(tiny_federation: Callable[..., Federation], split_data: Callable[..., dict[str, Data]]) -> Make:
    def build(**tables: Any) -> Made:
        federation = tiny_federation(
            **{"adapter": ADAPTER, "rounds": ROUNDS, "training": {"batch_tokens": 96}, **tables}
        )
        model, sites = build_model(federation), {}
        for name, tasks in {"hospital": ("clauses", "entities"), "law_firm": ("clauses",)}.items():
            sites[name] = build_site(Institution(name=name, data=split_data(name, tasks)), federation, model)
        return federation, sites, get_state(model)

    return build


def run(store: Store, grid: LocalGrid, made: Made, run_id: str | None = None) -> str:
    federation, _, initial = made
    return run_on(grid, federation, initial, store, run_id=run_id)


def test_ranks_fall_to_the_target_and_what_is_pruned_stays_zero(store: Store, make: Make) -> None:
    made = make()
    grid = Tap(made[1])
    run_id = run(store, grid, made)
    states = [store.load_checkpoint(run_id, number).model for number in range(5)]
    ranks = [ranks_left(state) for state in states]
    layers = len(ranks[0])
    left = [sum(found.values()) for found in ranks]
    planned = [budget(made[0].adapter, number + 1, rounds=4, layers=layers) for number in range(1, 5)]
    assert left == [4 * layers, *planned]
    assert planned[0] < 4 * layers
    assert planned[2:] == [2 * layers, 2 * layers]
    for before, after, state in zip(ranks, ranks[1:], states[1:], strict=False):
        for layer, rank in after.items():
            a, b = (state[factor_name(layer, factor)] for factor in ("A", "B"))
            assert rank <= before[layer]
            assert a.shape[0] == b.shape[1] == 4
            assert not a[rank:].any()
            assert not b[:, rank:].any()
            assert a[:rank].any(axis=1).all()
    for number in range(1, 5):  # only what is left travels, both ways
        for name in ("hospital", "law_firm"):
            assert ranks_of(grid.told[number, name]) == ranks_of(grid.came[number, name]) == ranks[number - 1]
    assert grid.bytes[4, "hospital"] < 0.75 * grid.bytes[1, "hospital"]
    said = [row["text"] for row in store.rows(events, run_id) if re.match(r"Round \d", row["text"])]
    low, high = min(ranks[4].values()), max(ranks[4].values())
    assert f"ranks {low}-{high}, mean 2.0" in said[3]
    assert "ranks 4-4, mean 4.0" not in said[0]


def test_a_round_averages_updates_and_importance_by_weight(store: Store, make: Make) -> None:
    made = make(rounds={**ROUNDS, "weighting": "examples", "max_share": 1.0})
    grid = Tap(made[1])
    run_id = run(store, grid, made)
    before, after = (store.load_checkpoint(run_id, number).model for number in (1, 2))
    counts = {name: sum(len(site.records(task, "train")) for task in site.data) for name, site in made[1].items()}
    weights = {name: count / sum(counts.values()) for name, count in counts.items()}
    split = {name: unpack_update(grid.came[2, name]) for name in weights}
    told = {name: dict(update.importance) for name, update in split.items()}
    assert sum(float(array.sum()) for array in told["hospital"].values()) == pytest.approx(1.0, abs=1e-5)
    whole = dict(before)
    for name in before:
        if factor_of(name) is not None:
            mean = sum(weights[who] * update.model[name].astype(np.float64) for who, update in split.items())
            rank = ranks_left(before)[layer_of(name)]
            part = np.s_[:rank] if factor_of(name) == "A" else np.s_[:, :rank]
            whole[name] = before[name].copy()
            whole[name][part] += mean
    components = budget(made[0].adapter, 3, rounds=4, layers=len(ranks_left(before)))
    expected = prune(whole, mean_importance(told, weights), components)
    for name in before:
        if factor_of(name) is not None:
            np.testing.assert_allclose(after[name], expected[name], atol=1e-6)


def test_a_layer_without_influence_loses_its_rank_to_those_that_matter(store: Store, make: Make) -> None:
    made = make()
    model = made[1]["hospital"].model
    idle = next(name for name in lora_layers(model.encoder) if name.endswith("layer.1.attention.self.key"))
    for parameter in factors(lora_layers(model.encoder)[idle]).values():
        parameter.register_hook(torch.zeros_like)  # type: ignore[no-untyped-call]
    run_id = run(store, Tap(made[1]), made)
    ranks = ranks_left(store.load_checkpoint(run_id, 4).model)
    assert ranks[idle] == 0
    assert max(ranks.values()) > 2
    assert sum(ranks.values()) == 2 * len(ranks)


def test_a_resumed_run_equals_an_uninterrupted_one(store: Store, make: Make) -> None:
    made = make()
    whole = run(store, Tap(made[1]), made)
    original = store.save_checkpoint

    def die(run_id: str, number: int, state: Any) -> None:
        if number == 3:
            raise StoreError("disk full")
        original(run_id, number, state)

    store.save_checkpoint = die  # type: ignore[method-assign,assignment]
    with pytest.raises(StoreError):
        run(store, Tap(made[1]), made)
    store.save_checkpoint = original  # type: ignore[method-assign]
    broken = str(store.run()["run"])
    assert store.last_round(broken) == 2
    run(store, Tap(made[1]), made, broken)
    one, other = (pack_state(store.load_checkpoint(of, 4)) for of in (whole, broken))
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_half_precision_on_the_wire_prunes_to_the_target_too(store: Store, make: Make) -> None:
    made = make(wire={"up": "float16", "down": "float16"})
    run_id = run(store, LocalGrid(made[1]), made)
    ranks = ranks_left(store.load_checkpoint(run_id, 4).model)
    assert sum(ranks.values()) == 2 * len(ranks)
    assert {row["status"] for row in store.rows(replies, run_id)} == {"ok"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name, array: array - 2 if name.startswith("importance/") else array, "none negative"),
        (lambda name, array: array + 1 if name.startswith("importance/") else array, "together at most 1"),
        (lambda name, array: array * np.nan if name.startswith("importance/") else array, "finite"),
        (lambda name, array: array[:-1] if name.startswith("importance/") else array, "shape"),
    ],
)
def test_importance_that_cannot_be_drops_the_institution(
    store: Store, make: Make, change: Callable[[str, np.ndarray], np.ndarray], said: str
) -> None:
    made = make(rounds={**ROUNDS, "count": 2, "quorum": 1})
    grid = Tap(made[1])
    grid.change = lambda arrays: (
        {name: change(name, array) for name, array in arrays.items()}
        if "head/entities/linear.bias" not in arrays
        else arrays
    )
    run_id = run(store, grid, made)
    rows = [row for row in store.rows(replies, run_id) if row["kind"] == "train" and row["institution"] == "law_firm"]
    assert {row["status"] for row in rows} == {"dropped"}
    assert all(said in row["reason"] for row in rows)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 asks for it
def test_the_released_round_is_one_at_the_target_and_plain_peft_loads_it(
    store: Store, make: Make, tmp_path: Path, tiny_bert: Path
) -> None:
    made = make()
    run_id = run(store, Tap(made[1]), made)
    scored = store.best_round(run_id)
    assert scored is not None
    assert scored >= 3
    folder = release(store, run_id, tmp_path / "bundle")
    state, ours = store.load_checkpoint(run_id, scored).model, made[1]["hospital"].model
    assert sum(ranks_left(state).values()) == 2 * len(ranks_left(state))
    set_state(ours, state)
    batch = ours.collate(made[1]["hospital"].examples("test")[:4])
    plain = PeftModel.from_pretrained(
        BertModel.from_pretrained(tiny_bert, add_pooling_layer=False), str(folder / "adapter")
    ).eval()
    assert any(isinstance(module, LoraLayer) for module in plain.modules())
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    with torch.inference_mode():
        expected = ours.eval().encoder(**inputs, token_type_ids=batch.token_type_ids).last_hidden_state
        found = plain(**inputs, token_type_ids=batch.token_type_ids).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    set_state(build_model(load_bundle(folder).federation), load_bundle(folder).arrays)
