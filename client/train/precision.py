"""Which number format training and prediction compute in."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The context for a forward pass; `precision` as in `Training.precision`."""
    if not is_bfloat16(device, precision):
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def is_bfloat16(device: torch.device, precision: str) -> bool:
    """Whether `precision`, as in `Training.precision`, means bfloat16 on this device."""
    return precision == "bfloat16" or (precision == "auto" and _native_bfloat16(device))


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())
