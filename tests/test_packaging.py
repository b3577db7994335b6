"""The five top-level names are ours alone, and the rooms import each other only along the arrows."""

import ast
import re
import sys
import tomllib
from collections import Counter
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions, requires
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
ROOMS = ("collegium", "server", "client", "shared", "simulations")
FILES = [file for room in ROOMS for file in (ROOT / room).rglob("*.py")]
MODULES = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in FILES}
MAY_IMPORT = {
    "collegium": {"collegium", "client", "shared"},  # all else by name, when a verb of it is asked for
    "shared": {"shared"},
    "server": {"server", "shared"},
    "client": {"client", "shared"},
    "simulations": {"server", "client", "shared", "simulations"},
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
    lengths = {file: len(file.read_text().splitlines()) for file in MODULES.values()}
    assert len(lengths) > 20
    assert {str(file): n for file, n in lengths.items() if n > 450} == {}


def test_no_room_is_too_full() -> None:
    files = Counter(file.parent.relative_to(ROOT).as_posix() for file in MODULES.values() if file.stem != "__init__")
    registries = {
        "client/data/readers",
        "shared/tasks",
        "shared/tasks/heads",
        "server/aggregation",
        "simulations/attacks",
    }
    assert registries < files.keys()
    assert {room: n for room, n in files.items() if n > 12 and room not in registries} == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter({name: _imports(file) - {name} for name, file in MODULES.items()}).prepare()  # raises CycleError


def test_what_is_imported_is_declared_or_comes_with_what_is() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    brought = {_name(found.name) for line in declared for found in [Requirement(line), *_required(Requirement(line))]}
    brought |= {
        _name(found.name) for line in declared for one in _required(Requirement(line)) for found in _required(one)
    }
    sources = packages_distributions()
    for name, file in MODULES.items():
        for imported in _top_level(file) - set(ROOMS) - sys.stdlib_module_names:
            assert {_name(source) for source in sources[imported]} & brought, f"{name} imports {imported}"


def _name(distribution: str) -> str:
    return distribution.lower().replace("_", "-")


def _required(by: Requirement) -> list[Requirement]:
    """What an installed distribution requires here, with the extras that are asked for."""
    found = [Requirement(line) for line in requires(by.name) or []]
    return [
        each
        for each in found
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in by.extras or {""})
    ]


def _top_level(file: Path) -> set[str]:
    """The packages that a module imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def _imports(file: Path) -> set[str]:
    """The modules of ours that a module loads when it is loaded, itself by its name."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in found if name in MODULES and MODULES[name].stem != "__init__"}


FLOWERS_OWN = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy"}
"""What Flower documents; everything else of it may change in any release."""


def test_one_package_takes_what_flower_does_not_document() -> None:
    allowed = {name for name, file in MODULES.items() if file.is_relative_to(ROOT / "shared" / "flower")}
    found = {name: _of_flower(file) - FLOWERS_OWN for name, file in MODULES.items() if name not in allowed}
    assert {name: modules for name, modules in found.items() if modules} == {}


def _of_flower(file: Path) -> set[str]:
    """The modules of Flower that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name.split(".")[0] == "flwr"}


def test_the_walks_through_the_house_name_files_that_exist() -> None:
    walks = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("## Two walks\n")[1].split("\n## ")[0]
    named = re.findall(r"`((?:client|server|shared)/[\w/]+\.py)`", walks)
    assert len(named) > 20
    assert [file for file in named if not (ROOT / file).exists()] == []


def test_every_module_that_the_architecture_names_exists() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w./]*\w\.py\b", page))
    modules = [f"/{file.relative_to(ROOT)}" for room in ROOMS for file in (ROOT / room).rglob("*.py")]
    assert len(named) > 80
    assert [name for name in sorted(named) if not any(module.endswith(f"/{name}") for module in modules)] == []


def test_continuous_integration_installs_what_the_extras_ask_for() -> None:
    """By files that name exact versions, since they are installed without looking at what they need."""
    agreed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    lines = [line for name in ("constraints.txt", ".ci/extras.txt") for line in (ROOT / name).read_text().splitlines()]
    pinned = {
        canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines) if version
    }
    asked = [Requirement(line) for name, wanted in agreed.items() if name != "test" for line in wanted]
    assert len(asked) > 10
    for requirement in asked:
        if requirement.name != "flwr":
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
