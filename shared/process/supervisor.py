"""Keep a few child processes running, and leave none behind.

Three lines of defence see to it that nothing outlives the supervisor:

1. Every child leads its own session. Stopping it means SIGTERM to its process group and, after a grace period,
   SIGKILL: that reaches grandchildren (SuperExec starts a process for each run, for example).
2. Every child asks the kernel for SIGKILL when its parent dies (`PR_SET_PDEATHSIG`), through a launcher that sets it
   and then becomes the program. The kernel ties this to the *thread* that forked: children are started only by the
   thread that runs `supervise`, which outlives them.
3. That request is not inherited by grandchildren. A small warden process reads the children's group ids from a pipe;
   when the supervisor is gone, however it went, the pipe ends and the warden kills the groups.

A grandchild that makes a session of its own escapes; Flower's processes do not. Linux only.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from shared.errors import ProcessError
from shared.process.parent import VARIABLE, heard
from shared.upkeep.manager import Watchdog, tell
from shared.watching.logs import FRAME, LOG_BYTES, as_json

FIRST_DELAY = 0.5  # seconds before the first restart; doubles with every further death
LONGEST_DELAY = 8.0
WAIT_SECONDS = 30.0
"""The longest pause before a child that others keep from working is started again."""
LONG_LIFE = 60.0  # a child that lived this long starts over with FIRST_DELAY
POLL = 0.5
"""Seconds between two looks at the children, which cost an idle institution more than anything else at 0.1."""
END_POLL = 0.05
FRAME_SECONDS = 2.0
"""Until the last lines of a child that has ended are written."""
KILL_SECONDS = 1.0  # a killed process needs a moment to end
TAIL_BYTES = 8192

# Run by a bare interpreter (`-I -S`), which starts in a few milliseconds. argv: the supervisor's pid, then the program.
# The pid is compared because the supervisor may have died before the request was made.
_LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""

_WARDEN = """
import os, sys
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    try:
        os.killpg(group, 9)
    except OSError:
        pass
"""


@dataclass(frozen=True)
class Child:
    """A program to keep running.

    Attributes:
        name: What announcements call it.
        argv: The program and its arguments.
        log: File that its stdout and stderr are appended to; folders are made as needed.
        env: Variables added to the supervisor's own environment.
        give_up: For a program that is not ours and does not `tell_parent`: called with the exit code (negative: minus
            the signal) and the last lines that this life of the child wrote. A sentence means that restarting is
            pointless and becomes the error; `None` restarts.
        wait: Called in the same way where `give_up` said nothing: a sentence names what others can mend. It is
            announced once, and the child is started again after pauses that grow to WAIT_SECONDS, until it is mended.
    """

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    give_up: Callable[[int, str], str | None] | None = None
    wait: Callable[[int, str], str | None] | None = None
    about: Mapping[str, str] = field(default_factory=dict)
    """Fields of all its lines, where logs are JSON."""


@dataclass
class _Life:
    """One child and its present process, if it is running."""

    child: Child
    process: subprocess.Popen[bytes] | None = None
    frame: subprocess.Popen[bytes] | None = None
    """What makes JSON of its lines, where logs are."""
    pipe: int = -1
    """What the process may report before it ends."""
    log_start: int = 0
    started: float = 0.0
    due: float = 0.0
    delay: float = FIRST_DELAY
    waits_for: str = ""
    """What was announced last of what others can mend."""


def supervise(
    children: Sequence[Child],
    *,
    stop: threading.Event,
    announce: Callable[[str], None],
    grace: float = 10.0,
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Start the children in order and restart whichever dies, until `stop` is set; then end them all.

    A restart waits 0.5 s, doubling with every death to 8 s at most, and 0.5 s again after a life of 60 s.

    Args:
        children: What to run.
        stop: Set it to end everything and return.
        announce: Called with one plain line for every death.
        grace: Seconds between SIGTERM (last child first) and SIGKILL.
        until: Says at every look whether to end as if `stop` were set.

    Raises:
        ProcessError: A program does not exist, a child said why it cannot go on (`shared.process.parent`), or its
            `give_up` returned a sentence. All children are ended.
    """
    lives, watchdog = [_Life(child) for child in children], Watchdog()
    with _bare_python(_WARDEN, stdin=subprocess.PIPE) as warden:
        try:
            while not (stop.is_set() or until()):
                watchdog.look()
                for life in lives:
                    if life.process is None:
                        if time.monotonic() >= life.due:
                            _start(life, warden)
                    elif _has_exited(life.process):
                        _bury(life, warden, announce)
                    _rotate(life)
                stop.wait(POLL)
        finally:
            tell("STOPPING=1")
            _end_all(lives, warden, grace)


def run_until_signal(target: Callable[[threading.Event], None]) -> None:
    """Run `target(stop)` and set `stop` on SIGTERM, SIGINT or SIGHUP; call it from the main thread.

    A handler takes no lock, because the next signal may interrupt it while it holds one: it writes to a pipe, and a
    thread that reads the pipe sets `stop`. The handlers found are put back afterwards.

    Args:
        target: The work; it has to return soon after `stop` is set. What it raises is raised here.
    """
    stop = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def tell(*_: object) -> None:
        with suppress(BlockingIOError):  # a full pipe has been written to often enough
            os.write(writer, b".")

    def listen() -> None:
        if os.read(reader, 1):
            stop.set()

    before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    listener = threading.Thread(target=listen, name="signals", daemon=True)
    listener.start()
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="until-signal") as worker:
            worker.submit(target, stop).result()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        listener.join()
        os.close(reader)


def _bare_python(code: str, *argv: str, **options: object) -> subprocess.Popen[bytes]:
    """Start `code` in an interpreter that loads nothing, as the leader of a new session."""
    command = [sys.executable, "-I", "-S", "-c", code, *argv]
    return subprocess.Popen(command, start_new_session=True, **options)  # type: ignore[call-overload,no-any-return]


def _start(life: _Life, warden: subprocess.Popen[bytes]) -> None:
    child = life.child
    if shutil.which(child.argv[0]) is None:
        raise ProcessError(
            f"{child.name} needs the program {child.argv[0]!r}, which was not found on PATH; "
            "run Collegium from the environment it is installed in."
        )
    child.log.parent.mkdir(parents=True, exist_ok=True)
    life.pipe, writer = os.pipe()
    os.set_blocking(life.pipe, False)
    try:
        with child.log.open("ab") as log:
            life.log_start = log.tell()
            output = _frame(life) if as_json() else log
            life.process = _bare_python(
                _LAUNCHER,
                str(os.getpid()),
                *child.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(writer,),
                env={**os.environ, **child.env, VARIABLE: str(writer)},
            )
    finally:
        os.close(writer)
        if life.frame and life.frame.stdin:
            life.frame.stdin.close()
    life.started = time.monotonic()
    _tell(warden, f"+{life.process.pid}")


def _frame(life: _Life) -> IO[bytes]:
    """Start what makes JSON of a child's lines, and ends with the child; where the child is to print."""
    fields = json.dumps({"process": life.child.name, **life.child.about})
    command = [sys.executable, "-I", "-S", str(FRAME), str(life.child.log), fields]
    life.frame = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    assert life.frame.stdin is not None
    return life.frame.stdin


def _rotate(life: _Life) -> None:
    """Start a new log where the old one has grown too large. The child keeps its file."""
    log = life.child.log
    with suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES:
            with suppress(OSError):  # a full disk: then at least the log itself gives way
                shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)
            life.log_start = 0


def _tell(warden: subprocess.Popen[bytes], line: str) -> None:
    assert warden.stdin is not None
    with suppress(BrokenPipeError):  # someone killed the warden: the other two lines of defence still hold
        warden.stdin.write(f"{line}\n".encode())
        warden.stdin.flush()


def _has_exited(process: subprocess.Popen[bytes]) -> bool:
    """Whether the child is dead, without reaping it: until then its group id cannot be given to a stranger."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _reap(life: _Life, warden: subprocess.Popen[bytes]) -> int:
    """Kill what is left of a dead child's group and return the child's exit code."""
    assert life.process is not None
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(life.process.pid, signal.SIGKILL)
    code = life.process.wait()
    _tell(warden, f"-{life.process.pid}")
    life.process = None
    os.close(life.pipe)
    if life.frame:
        with suppress(subprocess.TimeoutExpired):  # a process of another session may hold its input
            life.frame.wait(FRAME_SECONDS)
        life.frame = None
    return code


def _bury(life: _Life, warden: subprocess.Popen[bytes], announce: Callable[[str], None]) -> None:
    """Account for a child that died by itself: give up, or plan its next start."""
    reason = heard(life.pipe)
    code = _reap(life, warden)
    child, tail = life.child, _tail(life.child.log, life.log_start)
    if child.give_up and not reason:
        reason = child.give_up(code, tail)
    if reason:
        raise ProcessError(reason)
    if time.monotonic() - life.started >= LONG_LIFE:
        life.delay, life.waits_for = FIRST_DELAY, ""
    if child.wait and (obstacle := child.wait(code, tail)):
        if obstacle != life.waits_for:
            announce(obstacle)
        life.waits_for, life.due = obstacle, time.monotonic() + life.delay
        life.delay = min(2 * life.delay, WAIT_SECONDS)
        return
    life.waits_for = ""
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    announce(f"{child.name} {how}; it starts again in {life.delay:g} s (its log is {child.log})")
    life.due = time.monotonic() + life.delay
    life.delay = min(2 * life.delay, LONGEST_DELAY)


def _tail(log: Path, start: int) -> str:
    """The last lines written to `log` after byte `start`."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - TAIL_BYTES))
        return file.read().decode(errors="replace")


def _end_all(lives: Sequence[_Life], warden: subprocess.Popen[bytes], grace: float) -> None:
    """SIGTERM to every group, last child first; SIGKILL for what has not ended `grace` seconds later."""
    running = [life for life in reversed(lives) if life.process is not None]
    groups = [life.process.pid for life in running if life.process is not None]
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGTERM)
    _wait_for_end(groups, grace)
    for life in running:
        _reap(life, warden)
    _wait_for_end(groups, KILL_SECONDS)


def _wait_for_end(groups: Sequence[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while _anyone_alive(groups) and time.monotonic() < deadline:
        time.sleep(END_POLL)


def _anyone_alive(groups: Sequence[int]) -> bool:
    """Whether a member of one of the process groups still runs; zombies do not count, nobody may ever reap them."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _parent, group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if state not in "ZX" and int(group) in groups:
                return True
    return False
