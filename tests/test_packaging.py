"""The four top-level names are ours alone, and the rooms import each other only along the arrows."""

import ast
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("server", "client", "shared", "simulations")
MAY_IMPORT = {
    "shared": {"shared"},
    "server": {"server", "shared"},
    "client": {"client", "shared"},
    "simulations": set(ROOMS),
}


@pytest.mark.parametrize("name", ROOMS)
def test_no_other_distribution_installs_it(name: str) -> None:
    others = set(packages_distributions().get(name, [])) - {"collegium"}
    assert not others, f"{sorted(others)} also install `{name}`: pip overwrites it"


@pytest.mark.parametrize("name", ROOMS)
def test_it_is_a_regular_package_of_this_checkout(name: str) -> None:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None, f"`{name}` lacks __init__.py: a stray folder wins"
    assert Path(spec.origin).parents[1] == ROOT


def test_tests_are_not_a_package() -> None:
    assert not list(Path(__file__).parent.rglob("__init__.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_imports_follow_the_arrows(room: str) -> None:
    wrong = []
    for file in sorted((ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                if top in ROOMS and top not in MAY_IMPORT[room]:
                    wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_no_module_is_too_long() -> None:
    lengths = {file: len(file.read_text().splitlines()) for room in ROOMS for file in (ROOT / room).rglob("*.py")}
    assert len(lengths) > 20
    assert {str(file): n for file, n in lengths.items() if n > 600} == {}
