"""What a training process keeps: memory is given back, and the environment has the last word on kernels."""

import gc
import os

import numpy as np
import pytest

from shared.process import memory


def test_what_is_freed_is_given_back() -> None:
    pieces = [np.ones(1024) for _ in range(20_000)]
    last = np.ones(1024)  # above them all in the heap, which glibc then does not shrink by itself
    full = memory.resident()
    pieces.clear()
    memory.give_back()
    assert memory.resident() < full - 100e6
    assert last.all()


def test_the_environment_decides_how_many_kernels_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.delenv(name, raising=False)
    memory.keep_few_kernels()
    assert os.environ[name] == str(memory.KERNELS)
    monkeypatch.setenv(name, "7")
    memory.keep_few_kernels()
    assert os.environ[name] == "7"


def test_nothing_is_collected_while_libraries_are_loaded() -> None:
    frozen = gc.get_freeze_count()
    try:
        with memory.loading():
            assert not gc.isenabled()
            made = [[number] for number in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen + len(made)
    finally:
        if not frozen:
            gc.unfreeze()
