"""Eight bits: half a step of rounding at most, and a product that is as near as that."""

import pytest
import torch

from shared.inference.int8 import SCALE, WORDS, Int8Product, quantised


def test_weights_are_rounded_by_half_a_step_at_most_and_all_else_stays() -> None:
    torch.manual_seed(0)
    layer = "encoder.layer.0.output.dense"
    weights = {
        f"{layer}.weight": torch.randn(6, 4) * torch.logspace(-4, 2, 6)[:, None],
        f"{layer}.bias": torch.randn(6),
        WORDS: torch.randn(9, 4),
        "embeddings.position_embeddings.weight": torch.randn(5, 4),
    }
    weights[WORDS][3] = 0.0  # as padding's may be
    found = quantised(weights)
    for name in (f"{layer}.weight", WORDS):
        assert found[name].dtype == torch.int8
        scale = found[name + SCALE][:, None]
        whole = weights[name].abs().amax(1) > 0
        assert (found[name].abs().amax(1)[whole] == 127).all()  # each row by its own largest
        assert ((found[name] * scale - weights[name]).abs() <= 0.5001 * scale).all()
    assert torch.equal(found[WORDS][3], torch.zeros(4, dtype=torch.int8))
    for name in (f"{layer}.bias", "embeddings.position_embeddings.weight"):
        assert found[name] is weights[name]
    assert found.keys() - weights.keys() == {f"{layer}.weight{SCALE}", WORDS + SCALE}


@pytest.mark.parametrize("tokens", [1, 40])
def test_a_product_is_near_what_it_stands_for(tokens: int) -> None:
    torch.manual_seed(1)
    engine = torch.backends.quantized.engine
    weight, bias, inputs = torch.randn(24, 16), torch.randn(24), torch.randn(tokens, 16)
    scale = weight.abs().amax(1) / 127
    product = Int8Product((weight / scale[:, None]).round().to(torch.int8), scale, bias)
    exact = inputs @ weight.t() + bias
    assert (product(inputs) - exact).norm() / exact.norm() < 0.03
    assert torch.backends.quantized.engine == engine
