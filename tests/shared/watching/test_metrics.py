import os
import subprocess
import sys
import time
from pathlib import Path

from shared.process.program import command
from shared.watching.metrics import _module, exposition, family, processes


def test_what_prometheus_reads() -> None:
    shown = exposition(
        [
            family("a_total", "Said.", {("x", 'a "b"\n'): 2.0}, "one", "two", counter=True),
            family("b_bytes", "Bytes.", 3),
            family("c_bytes", "Nothing.", {}, "one"),
        ]
    )
    assert shown.decode().splitlines() == [
        "# HELP a_total Said.",
        "# TYPE a_total counter",
        'a_total{one="x",two="a \\"b\\"\\n"} 2.0',
        "# HELP b_bytes Bytes.",
        "# TYPE b_bytes gauge",
        "b_bytes 3.0",
    ]


def test_a_daemon_s_children_are_told_apart_with_what_they_have_started(tmp_path: Path) -> None:
    for name in ("server", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "child.py").write_text(
            "import subprocess, sys, time\n"
            "grandchild = subprocess.Popen([sys.executable, '-c', 'x = bytes([1]) * 50_000_000; input()'], stdin=-1)\n"
            "print('up', flush=True)\n"
            "input()\n"
            "grandchild.communicate(b'')\n"
        )
    before = set(processes(os.getpid()))  # those of other tests in this process
    began = time.time()
    started = [
        subprocess.Popen(
            [sys.executable, "-m", f"{name}.child"],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        for name in ("server", "elsewhere")
    ]
    try:
        for each in started:
            assert each.stdout is not None
            each.stdout.readline()
        while (found := processes(os.getpid()))["child"].memory < 60_000_000:
            assert time.time() < began + 30
            time.sleep(0.05)
    finally:
        for each in started:
            each.communicate(b"\n", timeout=30)
    assert set(found) - before == {"child"}, "another program than Collegium's is none of its processes"
    assert "daemon" in found
    assert found["daemon"].memory > 1_000_000
    assert abs(found["child"].started - began) < 30


def test_a_process_has_the_name_of_its_module_however_it_is_started() -> None:
    def name(*words: str) -> str:
        return _module("\0".join([*words, ""]).encode())

    assert name(*command("server.service.superlink", "--home", "x")) == "superlink"
    assert name("python", "-P", "-m", "server.service.superexec", "-m", "x") == "superexec"
    assert name("python", "-m", "pytest", "-m", "server.x") == ""
    assert name("python", "-m") == name("bash", "-c", "server.x") == ""
