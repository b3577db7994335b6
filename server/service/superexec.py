"""`flower-superexec` without the colours of a terminal: `python -m server.service.superexec`, options as Flower's."""

import runpy
import sys

from shared.flower.constants import console_handler
from shared.process.flower import flower_command

if __name__ == "__main__":
    console_handler.colored = False  # its output is a file
    sys.argv[0] = flower_command("flower-superexec")
    runpy.run_path(sys.argv[0], run_name="__main__")
