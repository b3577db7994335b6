"""Processes that die, and some that get no processor time for a while."""

import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

COORDINATOR = {
    "ServerApp": "server.service.serverapp",
    "SuperLink": "server.service.superlink",
    "SuperExec": "server.service.superexec",
    "server up": "collegium server up",
}
INSTITUTION = {
    "executor": "client.service.executor",
    "SuperNode": "client.service.supernode",
    "client up": "collegium client up",
    "a whole institution": "",
}
"""Words in the command line of each kind of process; none for `client up` and all that it has started."""
FROZEN = {
    "a frozen SuperLink": ("server.service.superlink", "coordinator"),
    "a frozen SuperNode": ("client.service.supernode", ""),
    "a frozen institution": ("", ""),
}
"""What gets no processor time for FROZEN_SECONDS: its words, and its folder where that is no institution's."""
FROZEN_SECONDS = 65.0
"""Longer than Flower counts a silent node as online."""


def processes(words: str, folder: Path) -> list[int]:
    """Ids of processes that have the words in their command line, and the folder there or in their environment.

    Without words, those of `collegium client up`, and all their descendants.
    """
    parents, roots = dict[int, int](), set[int]()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            around = command + (entry / "environ").read_bytes().decode(errors="replace")
            parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if (words or INSTITUTION["client up"]) in command and str(folder) in around:
            roots.add(int(entry.name))
    while not words and (more := {child for child, parent in parents.items() if parent in roots} - roots):
        roots |= more
    return sorted(roots)


def kill(words: str, folder: Path) -> int:
    """Kill such processes; how many there were."""
    return _signal(processes(words, folder), signal.SIGKILL)


def freeze(words: str, folder: Path, over: threading.Event, seconds: float = FROZEN_SECONDS) -> int:
    """Stop such processes for so many seconds, or until it is over; how many there were."""
    found = processes(words, folder)
    _signal(found, signal.SIGSTOP)
    if found:
        over.wait(seconds)
    return _signal(found, signal.SIGCONT)


def left(folder: Path) -> list[int]:
    """Of a deployment, the processes that are still there."""
    everything = filter(None, (*COORDINATOR.values(), *INSTITUTION.values()))
    return [pid for words in everything for pid in processes(words, folder)]


def _signal(found: Sequence[int], number: int) -> int:
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    return len(found)
