"""The coordinator's modules and commands load no library that only builds, trains or scores a model."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODELS = ("torch", "transformers", "tokenizers", "peft", "opacus", "scipy", "sklearn", "pandas", "seqeval", "nltk")
"""What a coordinator never needs; torch alone takes four seconds and 300 MB."""
HEAVY = (*MODELS, "sacrebleu", "alembic", "flwr.cli.build", "pyarrow")
"""With what it needs now and then."""
ASK = """
import importlib, sys
for module in sys.argv[2:]:
    importlib.import_module(module)
    if found := [name for name in sys.argv[1].split() if name in sys.modules]:
        sys.exit(f"{module} loads {found}")
print(len(sys.argv) - 2)
"""


def load(modules: list[str], without: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK, " ".join(without), *modules], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert int(done.stdout) == len(modules)


def test_no_module_of_the_coordinator_loads_a_library_of_models() -> None:
    files = sorted((ROOT / "server").rglob("*.py")) + sorted((ROOT / "shared" / "federation").rglob("*.py"))
    modules = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    load(["collegium.__main__", *modules], MODELS)


def test_the_app_and_the_commands_load_nothing_that_they_seldom_need() -> None:
    load(["server.app", "server.runs.steering", "server.runs.status", "server.runs.queue", "server.cli"], HEAVY)


def test_what_speaks_for_an_institution_or_starts_one_loads_no_library_of_models() -> None:
    modules = ["client.cli", "client.keys", "client.institution", "client.policy", "client.leaving.outbox"]
    load([*modules, "client.service.daemon", "client.service.supernode", "simulations.demo"], MODELS)


def test_who_only_asks_or_keeps_processes_loads_no_server_and_the_institutions_daemon_no_flower() -> None:
    """It would take them a third of their time to start, and of their memory."""
    load(["server.runs.steering", "server.service.operator", "server.service.daemon"], ("fastapi", "uvicorn"))
    load(["client.institution", "client.policy", "client.leaving.outbox", "client.service.daemon"], ("flwr", "fastapi"))
