"""This machine: its disk, its memory, its processors, and who may open what is kept on it."""

import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from shared.doctor.findings import Finding
from shared.process.files import OTHERS

SHOWN = 3
"""Files that are named."""
LOW_DISK = 2 * 2**30
"""Bytes below which a disk is spoken of, whatever a run needs."""


def check_disk(folder: Path, needed: int, what: str) -> Finding:
    """Whether a folder's disk has room for so many bytes.

    Args:
        folder: Need not be there yet.
        needed: Bytes.
        what: What takes them.
    """
    place = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(place).free
    text = f"{size(free)} are free at {place}; {what} takes about {size(needed)}."
    if free < needed:
        return Finding("disk", "error", text, "Make room, or name a folder on another disk.")
    if free < 2 * needed or free < LOW_DISK:
        return Finding("disk", "warning", text, "Make room: logs and other programs grow too.")
    return Finding("disk", "ok", text)


def check_private(paths: Iterable[Path]) -> Finding:
    """Whether nobody but their owner may open some files and folders, and what is in the folders; missing ones pass."""
    open_to_others, looked = [], 0
    for path in paths:
        for each in (path, *(path.rglob("*") if path.is_dir() else ())):
            try:
                mode = each.lstat().st_mode
            except OSError:
                continue
            looked += 1
            if stat.S_ISLNK(mode) or not mode & OTHERS:
                continue
            if _behind_a_closed_door(each, path):
                continue
            open_to_others.append(each)
    if open_to_others:
        named = ", ".join(map(str, open_to_others[:SHOWN]))
        more = f" and {len(open_to_others) - SHOWN} more" if len(open_to_others) > SHOWN else ""
        return Finding(
            "permissions",
            "warning",
            f"Other users of this machine may open {named}{more}.",
            "Run `chmod -R go-rwx` on them; make new keys if somebody may have read them.",
        )
    return Finding("permissions", "ok", f"Nobody else may open the {looked} private files and folders.")


def available_memory() -> int:
    """Bytes of main memory that a new process may take: what Linux calls available, and the cgroup's limit."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no cgroup, or no limit
        return available
    return min(available, max(0, limit - used))


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def size(count: float) -> str:
    """Bytes in words."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= bytes_:
            return f"{count / bytes_:.1f} {unit}"
    return f"{count:.0f} bytes"


def _behind_a_closed_door(path: Path, top: Path) -> bool:
    """Whether a folder above, up to the one that was named, lets nobody else in."""
    if path == top:
        return False
    for folder in path.parents:
        if not folder.stat().st_mode & OTHERS:
            return True
        if folder == top:
            return False
    return False
