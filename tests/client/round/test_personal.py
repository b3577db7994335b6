"""A site's own model: kept when the released round is scored, written as a bundle that anybody's tools read."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from peft import PeftModel
from transformers import BertModel
from typer.testing import CliRunner

from client.keys import generate_node_key
from client.opening import open_site
from client.predict import open_bundle
from client.round.personal import FILE, keep_model, write_own_bundle
from client.site import Site
from client.train import trainer
from collegium.__main__ import app
from shared import codec
from shared.adapter import get_state, is_received, of_tasks
from shared.bundle import load_bundle
from shared.errors import ConfigError, StoreError
from shared.federation import Federation, federation_toml
from shared.model.lora import frozen, lora_layers
from shared.protocol import EvaluateReply, EvaluateRequest, Refusal, TrainReply, TrainRequest
from shared.state import pack_steps

Open = Callable[..., Site]


@pytest.fixture
def open_hospital(
    tmp_path: Path, tiny_federation: Callable[..., Federation], write_records: Callable[..., Path]
) -> Open:
    """Opens a site from its institution.toml; tables change the federation."""

    def make(
        *tasks: str, rank: int | None = None, test: bool = True, policy: dict[str, Any] | None = None, **tables: Any
    ) -> Site:
        federation = tiny_federation(**tables)
        (tmp_path / "federation.toml").write_text(federation_toml(federation), encoding="utf-8")
        if not (tmp_path / "node.key").exists():
            generate_node_key(tmp_path / "node.key")
        data: dict[str, dict[str, str]] = {}
        for task in tasks:
            data[task] = {"train": str(write_records(tmp_path / f"{task}.train.jsonl", task, slice(0, None, 2)))}
            data[task]["validation"] = str(write_records(tmp_path / f"{task}.val.jsonl", task, slice(1, None, 4)))
            if test:
                data[task]["test"] = str(write_records(tmp_path / f"{task}.test.jsonl", task, slice(3, None, 4)))
        values = {"name": "hospital", "data": data, "policy": policy or {}, "adapter": {"rank": rank} if rank else {}}
        (tmp_path / "institution.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
        return open_site(tmp_path / "institution.toml")

    return make


def told(site: Site) -> bytes:
    """A state as the coordinator would send it."""
    state = of_tasks(get_state(site.model), site.data.keys())
    method = site.federation.method
    return codec.encode({name: array for name, array in state.items() if is_received(name, method)}, "float32")


def train(site: Site, blob: bytes) -> None:
    version = "r1:0" if site.federation.method.folds else ""
    request = TrainRequest(
        spec_digest=site.federation.digest, run="r1", round=1, rounds=2, state=blob, base_version=version
    )
    reply = site.answer(request, run="7")
    assert isinstance(reply, TrainReply), reply


def ask(site: Site, blob: bytes, **more: Any) -> EvaluateRequest:
    told: dict[str, Any] = {"round": 1, "split": "test", "released": True} | more
    return EvaluateRequest(spec_digest=site.federation.digest, run="r1", state=blob, **told)


def logits(site: Site, task: str) -> list[np.ndarray]:
    return trainer.infer(site.model, site.data[task]["test"].examples, precision="float32")


@pytest.mark.parametrize(
    ("tables", "rank"),
    [
        ({}, None),
        ({"rounds": {"method": "fedsa"}, "personal": {"fine_tune_epochs": 2}}, None),
        ({"rounds": {"method": "fedex"}, "personal": {"keep": ["heads"]}}, None),
        ({"rounds": {"method": "fed-sb"}, "personal": {"fine_tune_epochs": 2}}, None),
        ({"rounds": {"method": "flexlora"}, "adapter": {"min_rank": 2, "rslora": True}}, 2),
    ],
    ids=["plain", "fedsa", "fedex", "fed-sb", "rank 2"],
)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 asks for it
def test_the_bundle_predicts_as_the_site_does(
    open_hospital: Open, tmp_path: Path, tiny_bert: Path, tables: dict[str, Any], rank: int | None
) -> None:
    site = open_hospital("clauses", "notes_qa", rank=rank, **tables)
    blob, steps = told(site), {}
    train(site, blob)
    if site.federation.method.folds:
        rng = np.random.default_rng(1)
        moves = {
            name: (
                rng.normal(0, 0.1, (frozen(layer).out_features, 3)),
                rng.normal(0, 0.5, (3, frozen(layer).in_features)),
            )
            for name, layer in lora_layers(site.model.encoder).items()
        }
        moves = {name: (b.astype(np.float32), a.astype(np.float32)) for name, (b, a) in moves.items()}
        steps = {"base": codec.encode(pack_steps(moves), "float32"), "base_version": "r1:1"}
    reply = site.answer(ask(site, blob if site.federation.method.keeps else told(site), **steps))
    assert isinstance(reply, EvaluateReply), reply
    expected = logits(site, "clauses")
    os.environ.pop("COLLEGIUM_INSTITUTION", None)
    out = tmp_path / "own"
    made = CliRunner().invoke(
        app, ["client", "bundle", str(tmp_path / "institution.toml"), "--out", str(out), "--json"]
    )
    assert json.loads(made.stdout) == {"bundle": str(out)}
    predictor = open_bundle(out)
    assert sorted(predictor.model.tasks) == ["clauses", "notes_qa"]
    records = site.records("clauses", "test")
    for record, row in zip(records, expected, strict=True):
        np.testing.assert_allclose(predictor.logits("clauses", record), row, atol=2e-5)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["scores"] == reply.scores
    assert load_bundle(out).settings["notes_qa"].keys() == {"null_threshold"}
    assert f"| clauses | macro_f1 | {reply.scores['clauses']['macro_f1']:.3f} |" in (out / "README.md").read_text()
    predicted = CliRunner().invoke(
        app, ["predict", str(out), "--task", "clauses", "--file", str(tmp_path / "clauses.test.jsonl")]
    )
    assert [json.loads(line)["clauses"]["label"] for line in predicted.stdout.splitlines()] == trainer.predict(
        site.model, site.model.tasks["clauses"], site.data["clauses"]["test"].examples
    )
    plain = PeftModel.from_pretrained(
        BertModel.from_pretrained(tiny_bert, add_pooling_layer=False), str(out / "adapter")
    ).eval()
    ids = torch.tensor([[101, 2023, 2003, 1037, 3231, 102]])
    with torch.no_grad():
        torch.testing.assert_close(
            plain(input_ids=ids).last_hidden_state,
            site.model.eval().encoder(input_ids=ids).last_hidden_state,
            atol=2e-5,
            rtol=0,
        )


def test_it_survives_the_daemon_and_later_requests(open_hospital: Open, tmp_path: Path) -> None:
    site = open_hospital("clauses", rounds={"method": "fedsa"})
    blob = told(site)
    train(site, blob)
    assert not (tmp_path / "state" / FILE).exists()
    site.answer(ask(site, blob))
    kept = (tmp_path / "state" / FILE).read_bytes()
    site.answer(ask(site, blob, released=False))
    train(site, blob)
    open_hospital("clauses", rounds={"method": "fedsa"})
    assert (tmp_path / "state" / FILE).read_bytes() == kept
    bundle = load_bundle(write_own_bundle(tmp_path / "institution.toml", tmp_path / "own"))
    assert bundle.tasks == ["clauses"]
    assert any(array.any() for name, array in bundle.arrays.items() if ".lora_B." in name)
    with pytest.raises(ConfigError, match="Expected a task among \\['clauses'\\]"):
        open_bundle(tmp_path / "own").task("entities")


@pytest.mark.parametrize("silent", ["no scores", "no test records"])
def test_an_institution_that_tells_no_scores_has_its_model_all_the_same(
    open_hospital: Open, tmp_path: Path, silent: str
) -> None:
    policy = {"metrics": "none"} if silent == "no scores" else {}
    site = open_hospital("clauses", test=bool(policy), policy=policy, personal={"fine_tune_epochs": 1})
    if policy:
        assert isinstance(site.answer(ask(site, told(site), released=False)), Refusal)
    reply = site.answer(ask(site, told(site)))
    assert isinstance(reply, EvaluateReply)
    assert (reply.scores, reply.examples) == ({}, {})
    assert load_bundle(write_own_bundle(tmp_path / "institution.toml", tmp_path / "own")).tasks == ["clauses"]
    assert "It was not scored" in (tmp_path / "own" / "README.md").read_text()


def test_before_the_end_of_a_run_there_is_no_model(open_hospital: Open, tmp_path: Path) -> None:
    open_hospital("clauses")
    with pytest.raises(ConfigError, match="there is none yet"):
        write_own_bundle(tmp_path / "institution.toml", tmp_path / "own")
    (tmp_path / "state").mkdir(exist_ok=True)
    (tmp_path / "state" / FILE).write_bytes(b"half a mod")
    with pytest.raises(StoreError, match="Could not read"):
        write_own_bundle(tmp_path / "institution.toml", tmp_path / "own")
    assert not (tmp_path / "own").exists()


def test_a_full_disk_keeps_the_earlier_model(
    open_hospital: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = open_hospital("clauses")
    site.answer(ask(site, told(site)))
    kept = (tmp_path / "state" / FILE).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left"):
            keep_model(tmp_path / "state", site.model, site.federation, tasks=["clauses"], about={})
    assert (tmp_path / "state" / FILE).read_bytes() == kept
