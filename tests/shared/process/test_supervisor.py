import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import LONGEST_LINE, DataError, ProcessError
from shared.process import parent, supervisor
from shared.process.supervisor import Child, run_until_signal, supervise

ROOT = Path(__file__).parents[2]
SLEEP = "import time; time.sleep(60)"
# Says its own pid and that of a child of its own, which ignores SIGTERM, then sleeps.
PARENT = (
    "import os, subprocess, sys, time\n"
    "code = 'import signal, time; signal.signal(15, signal.SIG_IGN); print(\"up\", flush=True); time.sleep(60)'\n"
    "child = subprocess.Popen([sys.executable, '-S', '-c', code], stdout=subprocess.PIPE)\n"
    "child.stdout.readline()\n"
    "print(os.getpid(), child.pid, flush=True)\n"
    "time.sleep(60)"
)


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def pids(log: Path, count: int = 2) -> list[int]:
    wait_for(lambda: sum(len(line.split()) for line in lines(log)) >= count)
    return [int(pid) for pid in log.read_text().split()]


class Background:
    """`supervise` in a thread of its own, as a command would run it."""

    def __init__(self, *children: Child, grace: float = 5.0) -> None:
        self.stop, self.said, self.error = threading.Event(), list[str](), list[Exception]()
        self.thread = threading.Thread(target=self.run, args=(children, grace))

    def run(self, children: tuple[Child, ...], grace: float) -> None:
        try:
            supervise(children, stop=self.stop, announce=self.said.append, grace=grace)
        except ProcessError as error:
            self.error.append(error)

    def __enter__(self) -> "Background":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


def test_a_child_that_dies_is_restarted_with_growing_delay(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "brief.log"
    with Background(Child("brief", python("print('born'); raise SystemExit(3)"), log)) as running:
        wait_for(lambda: len(running.said) >= 3)
    assert lines(log)[:3] == ["born"] * 3
    assert ["in 0.5 s" in running.said[0], "in 1 s" in running.said[1], "in 2 s" in running.said[2]] == [True] * 3
    assert running.said[0].startswith("brief ended with exit code 3")


def test_a_long_life_resets_the_delay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LONG_LIFE", 0.2)
    with Background(Child("steady", python("import time; time.sleep(0.4)"), tmp_path / "log")) as running:
        wait_for(lambda: len(running.said) >= 2)
    assert "in 0.5 s" in running.said[1]


def test_stop_ends_every_child_and_every_grandchild(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Background(Child("one", python(PARENT), log), Child("two", python(SLEEP), tmp_path / "two"), grace=0.5):
        parent, grandchild = pids(log)
        assert alive(parent)
        assert alive(grandchild)
    assert not alive(parent)
    assert not alive(grandchild)


def test_stop_lets_children_end_by_themselves(tmp_path: Path) -> None:
    record = tmp_path / "ended"
    code = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        f"    open({str(record)!r}, 'a').write(sys.argv[1]); sys.exit()\n"
        "signal.signal(15, end); print('up', flush=True); time.sleep(60)"
    )
    names = ("a", "b")
    children = [Child(name, [*python(code), name], tmp_path / name) for name in names]
    with Background(*children) as running:
        wait_for(lambda: all(lines(tmp_path / name) for name in names))
        began = time.monotonic()
        running.stop.set()
        running.thread.join()
    assert time.monotonic() - began < 2
    assert sorted(record.read_text()) == ["a", "b"]
    assert running.said == []


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import os, signal, time; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(60)"
    with Background(Child("stubborn", python(code), log), grace=0.5) as running:
        (pid,) = pids(log, 1)
        running.stop.set()
        began = time.monotonic()
        running.thread.join()
    assert 0.4 < time.monotonic() - began < 3
    assert not alive(pid)


def test_grandchildren_of_a_dead_child_do_not_outlive_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Background(Child("parent", python(PARENT), log)) as running:
        parent, grandchild = pids(log)
        os.kill(parent, signal.SIGKILL)
        wait_for(lambda: running.said)
        assert "was killed by SIGKILL" in running.said[0]
        wait_for(lambda: not alive(grandchild), 2)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("warden_dies_first", [False, True])
def test_killing_the_supervisor_leaves_nothing_behind(tmp_path: Path, warden_dies_first: bool) -> None:
    log = tmp_path / "log"
    code = (
        "import threading\nfrom pathlib import Path\nfrom shared.process.supervisor import Child, supervise\n"
        f"child = Child('c', {python(PARENT)!r}, Path({str(log)!r}))\n"
        "supervise([child], stop=threading.Event(), announce=print)"
    )
    supervising = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    parent, grandchild = pids(log)
    if warden_dies_first:
        (warden,) = set(children_of(supervising.pid)) - {parent}
        os.kill(warden, signal.SIGKILL)
    supervising.kill()
    supervising.wait()
    wait_for(lambda: not alive(parent), 5)
    if warden_dies_first:
        os.kill(grandchild, signal.SIGKILL)  # what the kernel does for the child reaches no further
    wait_for(lambda: not alive(grandchild), 5)


def test_give_up_sees_code_and_tail_of_this_life_and_ends_all(tmp_path: Path) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    log.write_text("an older failure\n")
    seen: list[tuple[int, str]] = []

    def give_up(code: int, tail: str) -> str | None:
        seen.append((code, tail))
        return "The key is not enrolled." if "KEY" in tail else None

    child = Child("node", python("import time; time.sleep(1); print('KEY'); raise SystemExit(7)"), log, {}, give_up)
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with pytest.raises(ProcessError, match=r"^The key is not enrolled\.$"):
        supervise([Child("other", python(code), other), child], stop=threading.Event(), announce=print)
    assert seen == [(7, "KEY\n")]
    assert not alive(pids(other, 1)[0])


def test_a_log_that_grows_too_large_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOG_BYTES", 1000)
    log = tmp_path / "child.log"
    code = "import sys, time\nfor n in range(60): print(n, 'x' * 100, flush=True); time.sleep(0.02)\ntime.sleep(60)"
    with Background(Child("talker", python(code), log)):
        wait_for(lambda: log.exists() and "59 " in log.read_text())
        wait_for(lambda: log.stat().st_size <= 1000)
    old = tmp_path / "child.log.1"
    assert old.stat().st_size < 4000
    assert b"\0" not in log.read_bytes() + old.read_bytes(), "the child writes on at the end"
    assert sorted(tmp_path.iterdir()) == [log, old]


def test_a_missing_program_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="no-such-program"):
        supervise([Child("x", ["no-such-program"], tmp_path / "log")], stop=threading.Event(), announce=print)


def test_environment_is_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "yes")
    log = tmp_path / "log"
    code = "import os, time; print(os.environ['KEPT'], os.environ['NEW'], flush=True); time.sleep(60)"
    with Background(Child("x", python(code), log, {"NEW": "new"})):
        wait_for(lambda: lines(log) == ["yes new"])  # it may come in pieces
    assert lines(log) == ["yes new"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_run_until_signal_sets_stop_and_restores_the_handlers(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def work(stop: threading.Event) -> None:
        os.kill(os.getpid(), number)
        assert stop.wait(5)

    run_until_signal(work)
    assert signal.getsignal(number) is before


def test_run_until_signal_passes_errors_on() -> None:
    def work(stop: threading.Event) -> None:
        raise ProcessError("no")

    with pytest.raises(ProcessError, match="no"):
        run_until_signal(work)


def test_a_handler_waits_for_no_lock() -> None:
    """Two signals in a row hung the daemon: the second handler waited for the lock that the first one held."""

    def work(stop: threading.Event) -> None:
        handler = signal.getsignal(signal.SIGTERM)
        assert callable(handler)
        with stop._cond:  # type: ignore[attr-defined]
            second = threading.Thread(target=handler, args=(signal.SIGTERM, None))
            second.start()
            second.join(5)
            waits = second.is_alive()
        assert not waits
        assert stop.wait(5)

    run_until_signal(work)


def verb(code: str) -> list[str]:
    return [sys.executable, "-c", f"from shared.errors import ConfigError\nfrom shared.process import console\n{code}"]


def test_a_child_that_says_why_it_cannot_go_on_is_not_started_again(tmp_path: Path) -> None:
    code = "def app():\n    raise ConfigError('Expected a\\nfile, but ' + 'x' * 89_000)\nconsole.run(app)"
    with Background(Child("verb", verb(code), tmp_path / "log")) as running:
        wait_for(lambda: running.error, 60)
    said = str(running.error[0])
    assert said.startswith("Expected a file, but xxx")
    assert len(said) == LONGEST_LINE
    assert running.said == []
    assert (tmp_path / "log").read_text() == f"error: {said}\n"


def test_what_merely_stands_in_a_childs_log_is_no_word_to_its_parent(tmp_path: Path) -> None:
    code = "print('error: somebody said so', flush=True); raise SystemExit(1)"
    with Background(Child("verb", python(code), tmp_path / "log")) as running:
        wait_for(lambda: running.said)
    assert running.error == []


def test_a_child_can_tell_though_it_left_a_process_behind(tmp_path: Path) -> None:
    code = (
        "import os, time\nfrom shared.process.parent import tell_parent\n"
        "if os.fork() == 0:\n    time.sleep(60)\ntell_parent(ConfigError('no'))\nos._exit(1)"
    )
    with Background(Child("verb", verb(code), tmp_path / "log")) as running:
        wait_for(lambda: running.error, 60)
    assert str(running.error[0]) == "no"


def test_half_a_word_is_none_and_without_a_parent_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = b'{"error": "no", "loggable": "no"}'
    for told, meant in ((whole, "no"), (whole[:-2], None), (b"[]", None), (b"", None)):
        end, start = os.pipe()
        os.set_blocking(end, False)
        os.write(start, told)
        assert parent.heard(end) == meant
        os.close(start)
        os.close(end)
    for value in ("", "no number", "1", "9999"):
        monkeypatch.setenv(parent.VARIABLE, value)
        parent.tell_parent(ValueError("nobody listens"))


@pytest.mark.parametrize("somebody", [True, False])
def test_a_record_is_quoted_at_a_terminal_alone(monkeypatch: pytest.MonkeyPatch, somebody: bool) -> None:
    end, start = os.pipe()
    os.set_blocking(end, False)
    monkeypatch.setenv(parent.VARIABLE, str(start))
    parent.tell_parent(DataError("line 3: 'Mrs Example \U0001d6c2' is no label." * 200, "1 of 3 rows are no records"))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: somebody, raising=False)
    said = parent.heard(end) or ""
    os.close(start)
    os.close(end)
    assert ("Mrs Example" in said) == somebody
    assert ("1 of 3 rows" in said) != somebody


def test_no_file_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Background(Child("brief", python("raise SystemExit(3)"), tmp_path / "log")) as running:
        wait_for(lambda: len(running.said) >= 2)
    assert len(os.listdir("/proc/self/fd")) == before
