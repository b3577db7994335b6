"""Starts a process that stays: `python -P -m shared.process.program MODULE ARGUMENTS` calls `main` of the module.

What such a process imports, it keeps: Python's collector looks for garbage among it in vain, for a fifth of the
processor time of the start. It is off before the module itself is read, which a module cannot see to.
"""

import sys
from importlib import import_module

from shared.process.memory import loading


def command(module: str, *arguments: str) -> list[str]:
    """The program and its arguments.

    Args:
        module: Has a function `main` that reads `sys.argv` and returns the exit code, or nothing.
        arguments: Of the module.
    """
    # -P: a folder called `server` or `client` where the user happens to stand must not be run.
    return [sys.executable, "-P", "-m", "shared.process.program", module, *arguments]


def main() -> None:
    """Run the module that is named first."""
    with loading():
        program = import_module(sys.argv.pop(1))
    sys.exit(program.main())


if __name__ == "__main__":
    main()
