"""`auto` follows the processor, and a test's outcome does not."""

import pytest
import torch

from client.train import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bfloat16_where_the_processor_computes_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_native_bfloat16", lambda device: native)
    assert precision.is_bfloat16(CPU, "auto") is native
    assert precision.is_bfloat16(CPU, "bfloat16")
    assert not precision.is_bfloat16(CPU, "float32")
    product = torch.ones(2, 2)
    with precision.autocast(CPU, "auto"):
        assert (product @ product).dtype == (torch.bfloat16 if native else torch.float32)


def test_tests_compute_alike_on_every_processor() -> None:
    assert not precision.is_bfloat16(CPU, "auto")
