"""The command as a whole."""

import os
import subprocess
import sys


def test_waiting_threads_sleep_and_that_is_said_before_torch_is_loaded() -> None:
    """libgomp reads its environment once, when torch loads it."""
    told = "import os, sys; import simulations.cli; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", told], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["PASSIVE", "False"]
