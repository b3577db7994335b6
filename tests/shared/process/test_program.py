"""A process whose modules are read without the collector, and that is otherwise as `python -m` would have it."""

import gc
import subprocess
from pathlib import Path

from shared.process.program import command


def test_the_module_is_read_without_the_collector_and_run_with_it(tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text(
        "import gc, sys\n"
        "reading = gc.isenabled()\n"
        "def main():\n"
        "    print(reading, gc.isenabled(), gc.get_freeze_count() > 1000, __name__, sys.argv[1:])\n"
        "    return 3\n"
    )
    assert gc.isenabled()
    done = subprocess.run(
        command("told", "--one", "two words"),
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "False True True told ['--one', 'two words']\n", done.stderr
    assert done.returncode == 3


def test_what_lies_where_the_user_stands_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text("def main():\n    print('read')\n")
    done = subprocess.run(command("told"), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "No module named 'told'" in done.stderr
