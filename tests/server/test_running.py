"""The coordinator's commands, before they do anything."""

import subprocess
import sys

HEAVY = ("transformers", "peft", "opacus", "sklearn", "scipy.stats", "seqeval", "nltk", "sacrebleu", "flwr.cli.build")
"""Between them two thirds of the time that `collegium server status` used to take, and of no use to it."""


def test_commands_load_no_library_that_only_trains_or_scores() -> None:
    code = f"import sys, server.running; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
