"""Memory of a process that trains for weeks: what libraries keep of work that is done, limited and given back."""

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KERNELS = 64
"""Compiled products that oneDNN keeps, each of about a megabyte; by default it is 1,024 (see
`shared.model.packed.TOKEN_MULTIPLE`)."""


def keep_few_kernels() -> None:
    """Limit what oneDNN keeps, unless the environment says how much; before the process's first product."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))


def give_back() -> None:
    """Hand memory that nothing uses to the machine; glibc keeps what batches of many sizes leave behind."""
    with suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def loading() -> Iterator[None]:
    """For a block that imports large libraries: nothing is looked through for garbage in it, and what it made never is.

    Modules stay, so that Python's collector finds nothing among them, again and again: a fourth of the processor
    time that torch, transformers and peft take to import.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


def resident(process: int | None = None) -> int:
    """Bytes of main memory that a process takes now; this one if none is named."""
    pages = int(Path(f"/proc/{process or 'self'}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
