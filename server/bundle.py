"""The bundle of code that Flower requires with every run: here only a pointer to the installed Collegium.

Its two modules must not be called `server`, `client` or `shared`: Flower puts the unpacked bundle first on the import
path, where such names would hide the installed packages.
"""

import warnings
from pathlib import Path

RUN_KEY = "collegium-run"
"""In a run's configuration: the run's id and the number of this start, as `RUN:NUMBER`."""

PYPROJECT = f"""\
[project]
name = "collegium-pointer"
version = "1.0.0"
description = "Points to the Collegium that is installed where it runs"
license = {{ text = "Apache-2.0" }}
dependencies = []

[tool.flwr.app]
publisher = "collegium"

[tool.flwr.app.components]
serverapp = "collegium_serverapp:app"
clientapp = "collegium_clientapp:app"

[tool.flwr.app.config]
{RUN_KEY} = ""
"""

# Flower reads these files without importing them and wants to see a plain assignment.
MODULE = '''\
"""Points to the installed Collegium; contains no code of its own."""

from {package}.app import app as installed

app = installed
'''


def pointer_bundle() -> bytes:
    """Build the bundle (FAB) that `OperatorClient.start_run` sends.

    Returns:
        A zip archive, the same bytes at every call: `pyproject.toml`, `collegium_serverapp.py`,
        `collegium_clientapp.py` and Flower's own `.info/CONTENT`. A run may override the one configuration key,
        `collegium-run` (a string, see RUN_KEY).
    """
    from shared.flower.bundle import build_fab_from_files  # loads all that `flwr` the command needs

    files: dict[str, bytes | Path] = {
        "pyproject.toml": PYPROJECT.encode(),
        "collegium_serverapp.py": MODULE.format(package="server").encode(),
        "collegium_clientapp.py": MODULE.format(package="client").encode(),
    }
    with warnings.catch_warnings():
        # Flower 1.41 asks pathspec for a kind of pattern by its former name.
        warnings.filterwarnings("ignore", message="GitWildMatchPattern", category=DeprecationWarning)
        bundle, _ = build_fab_from_files(files)
    return bundle
