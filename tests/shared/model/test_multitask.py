"""The adapter as the federation file describes it, and as plain peft reads it."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import BertModel

from shared.adapter import ADAPTER, tensors
from shared.errors import ConfigError
from shared.federation import TARGET_PRESETS, Federation
from shared.model.lora import lora_config
from shared.model.multitask import build_model

Make = Callable[..., Federation]


def targets(federation: Federation) -> set[str]:
    """The layers that got an adapter."""
    return {name.split(".")[-3] for name in tensors(build_model(federation)) if name.startswith(ADAPTER)}


def test_all_linear_is_every_linear_layer_of_the_encoder(tiny_federation: Make, tiny_bert: Path) -> None:
    bert = BertModel.from_pretrained(tiny_bert, add_pooling_layer=False)
    linear = {name.split(".")[-1] for name, module in bert.named_modules() if isinstance(module, torch.nn.Linear)}
    assert linear == set(TARGET_PRESETS["all-linear"])
    federation = tiny_federation(adapter={"target_modules": "all-linear"})
    assert targets(federation) == linear
    assert federation.adapter == tiny_federation().adapter


def test_query_value_is_those_two(tiny_federation: Make) -> None:
    assert targets(tiny_federation(adapter={"target_modules": "query,value"})) == {"query", "value"}


def test_a_layer_that_the_backbone_lacks_is_named(tiny_federation: Make) -> None:
    with pytest.raises(ConfigError, match=r"linear layers .*'query'.*, not \['q_proj'\]"):
        build_model(tiny_federation(adapter={"target_modules": ["query", "q_proj"]}))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 asks for it
@pytest.mark.parametrize("rslora", [False, True])
def test_the_scale_and_what_plain_peft_makes_of_it(
    tiny_federation: Make, tiny_bert: Path, tmp_path: Path, rslora: bool
) -> None:
    federation = tiny_federation(adapter={"rslora": rslora, "rank": 4, "alpha": 8.0, "target_modules": "query,value"})
    model = build_model(federation).eval()
    shared = {name.removeprefix(ADAPTER): p for name, p in tensors(model).items() if name.startswith(ADAPTER)}
    with torch.no_grad():
        for parameter in shared.values():
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(parameter)))
    lora_config(federation.adapter).save_pretrained(str(tmp_path))
    save_file({name: p.detach().contiguous() for name, p in shared.items()}, tmp_path / "adapter_model.safetensors")
    base = BertModel.from_pretrained(tiny_bert, add_pooling_layer=False)
    query = "encoder.layer.0.attention.self.query."
    frozen = base.get_parameter(f"{query}weight").detach().clone()
    ids = torch.tensor([[101, 2023, 2003, 102]])
    with torch.no_grad():
        ours = model.encoder(input_ids=ids).last_hidden_state
        plain = PeftModel.from_pretrained(base, str(tmp_path)).eval()
        torch.testing.assert_close(plain(input_ids=ids).last_hidden_state, ours)
        merged = plain.merge_and_unload().get_parameter(f"{query}weight")
        factors = [shared[f"base_model.model.{query}lora_{factor}.weight"] for factor in "BA"]
        product = factors[0] @ factors[1]
        scale = 8.0 / (math.sqrt(4) if rslora else 4)
        torch.testing.assert_close(merged, frozen + scale * product)
