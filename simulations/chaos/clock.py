"""The wall clock of some processes, which can be set while they run; what measures time that passes goes on steadily.

A library that is loaded before all others (`LD_PRELOAD`) answers for the C library's functions. It adds what it reads
from a file: CPython, SQLite and OpenSSL alike then see another time of day. Needs a C compiler.
"""

import mmap
import os
import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

from shared.errors import ProcessError

VARIABLE = "COLLEGIUM_CHAOS_CLOCK"
HOUR = 3600.0
SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile long long *offset;  /* seconds */

__attribute__((constructor)) static void open_offset(void) {
    const char *name = getenv("COLLEGIUM_CHAOS_CLOCK");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *found = mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (found != MAP_FAILED) offset = found;
    close(file);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    if (!result && offset && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += *offset;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec found;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &found);
    if (!result) { now->tv_sec = found.tv_sec; now->tv_usec = found.tv_nsec / 1000; }
    return result;
}

time_t time(time_t *where) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (where) *where = found.tv_sec;
    return found.tv_sec;
}
"""


class Clock:
    """A wall clock for processes that are started with its `environment`.

    Args:
        folder: For the library and the file; made.

    Raises:
        ProcessError: There is no C compiler, or it refuses.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        library, file = folder / "clock.so", folder / "offset"
        _compile(library)
        file.write_bytes(bytes(8))
        with file.open("r+b") as stream:
            self._shown = mmap.mmap(stream.fileno(), 8)
        self.environment: Mapping[str, str] = {"LD_PRELOAD": str(library), VARIABLE: str(file)}

    def set(self, seconds: float) -> None:
        """Show the right time plus so many seconds from now on."""
        self._shown[:] = struct.pack("@q", int(seconds))


def has_compiler() -> bool:
    """Whether a clock can be made here."""
    return shutil.which("cc") is not None


def _compile(library: Path) -> None:
    if not has_compiler():
        raise ProcessError("Expected a C compiler (cc) for a clock that jumps, but there is none; install gcc.")
    command = ["cc", "-shared", "-fPIC", "-O2", "-x", "c", "-o", os.fspath(library), "-", "-ldl"]
    done = subprocess.run(command, input=SOURCE, text=True, capture_output=True, check=False)
    if done.returncode:
        raise ProcessError(f"Expected cc to compile the clock, but it refused: {done.stderr.strip()[:300]}")
