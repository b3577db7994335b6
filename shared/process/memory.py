"""Memory of a process that trains for weeks: what libraries keep of work that is done, limited and given back."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

KERNELS = 128
"""Compiled products that oneDNN keeps, each of about half a megabyte; by default it is 1,024 (see
`shared.model.packed.TOKEN_MULTIPLE`)."""


def keep_few_kernels() -> None:
    """Limit what oneDNN keeps, unless the environment says how much; before the process's first product."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))


def give_back() -> None:
    """Hand memory that nothing uses to the machine; glibc keeps what batches of many sizes leave behind."""
    with suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def resident() -> int:
    """Bytes of main memory that this process takes now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
