"""Modules do not import each other in a circle, and imports follow the order of the rooms.

The sources are parsed, not imported. Imports within functions count, those under `if TYPE_CHECKING` do not.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from smpl_renderer.files import REPOSITORY

ROOMS = (
    "smpl_renderer",
    "core",
    "core.utils",
    "core.options",
    "core.types",
    "core.render",
    "core.avatar",
    "core.ops",
    "core.runtime",
    "core.data",
    "core.motion",
    "core.capture",
    "core.model",
    "core.losses",
    "core.checkpoint",
    "core.export",
    "core.inference",
    "core.training",
    "scripts",
)
"""Packages and modules from the lowest to the highest room; a module belongs to the longest name that it begins with.
A module may import its own room and lower ones. Modules at the root of the repository may import all rooms."""


def find_modules(root: Path) -> dict[str, Path]:
    """Files of the program by their dotted module names; a package stands for its `__init__.py`."""
    paths = [*root.glob("*.py")]
    for folder in sorted({room.partition(".")[0] for room in ROOMS}):
        paths += (root / folder).rglob("*.py")
    modules = {}
    for path in paths:
        parts = path.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def executed_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a tree that can be executed: those under `if TYPE_CHECKING` cannot."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield other
                yield from executed_nodes(other)
        else:
            yield child
            yield from executed_nodes(child)


def imported_names(tree: ast.Module, package: str) -> Iterator[tuple[str, str | None]]:
    """Imports of a module in `package`, as pairs of a dotted name and an attribute (None for a plain import)."""
    for node in executed_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            yield from ((base, alias.name) for alias in node.names)


def imported_modules(name: str, modules: dict[str, Path]) -> set[str]:
    """Modules of the program that a module needs, including the packages that they lie in."""
    path = modules[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    # Its own packages are initialized before a module is, whatever they import: they count only if named explicitly.
    implicit = set(packages_of(name))
    found = set()
    for base, attribute in imported_names(ast.parse(path.read_text(encoding="utf-8"), str(path)), package):
        target = f"{base}.{attribute}" if f"{base}.{attribute}" in modules else base
        found |= {target} | {parent for parent in packages_of(target) if parent not in implicit}
    return (found & modules.keys()) - {name}


def packages_of(name: str) -> list[str]:
    """Packages that a module lies in, by their dotted names."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def room_of(name: str) -> str | None:
    """Room of a module; None at the root of the repository."""
    return max((room for room in ROOMS if name == room or name.startswith(f"{room}.")), key=len, default=None)


def import_graph(root: Path) -> dict[str, set[str]]:
    """For each module of the program, the modules that it imports."""
    modules = find_modules(root)
    return {name: imported_modules(name, modules) for name in modules}


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of imports, as a list that begins and ends with the same module; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def upward_imports(graph: dict[str, set[str]]) -> list[str]:
    """Imports of a higher room, of a module at the root, or from a module of no room, as `importer -> imported`."""
    found = []
    for name, imports in graph.items():
        room = room_of(name)
        if room is not None:
            allowed = ROOMS[: ROOMS.index(room) + 1]
            found += [f"{name} -> {other}" for other in sorted(imports) if room_of(other) not in allowed]
        if room == "core" and name != "core":
            found.append(f"{name} is in no room")
    return found


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return import_graph(REPOSITORY)


def test_no_modules_import_each_other_in_a_circle(graph):
    assert len(graph) > 100
    assert find_circle(graph) == []


def test_imports_follow_the_order_of_the_rooms(graph):
    assert upward_imports(graph) == []


def write_modules(root: Path, sources: dict[str, str]) -> Path:
    for name, source in sources.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return root


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("import core.b", "import core.a"),
        ("from core import b", "def f():\n    from core.a import x"),
        ("from .b import x", "if True:\n    from . import a"),
    ],
)
def test_a_circle_is_found(tmp_path, first, second):
    root = write_modules(tmp_path, {"core/__init__.py": "", "core/a.py": first, "core/b.py": second})
    assert set(find_circle(import_graph(root))) == {"core.a", "core.b"}


def test_a_circle_through_a_package_is_found(tmp_path):
    package, module = "core/render/__init__.py", "core/render/a.py"
    root = write_modules(tmp_path, {package: "from core.render.a import x", module: "from core.render import y"})
    assert find_circle(import_graph(root))
    write_modules(tmp_path, {module: "from core.render import b", "core/render/b.py": ""})
    assert not find_circle(import_graph(root))


def test_imports_for_type_checking_do_not_count(tmp_path):
    checking = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import core.a"
    root = write_modules(tmp_path, {"core/a.py": "import core.b", "core/b.py": checking})
    assert import_graph(root) == {"core.a": {"core.b"}, "core.b": set()}


def test_imports_of_higher_rooms_and_of_the_root_are_found(tmp_path):
    sources = {
        "infer.py": "import core.training.step",
        "core/types/a.py": "import smpl_renderer.b\nfrom core.utils import c",
        "core/utils/c.py": "def f():\n    import core.types.a\n    import infer",
        "core/loose.py": "",
        "core/training/step.py": "",
        "smpl_renderer/b.py": "",
    }
    found = upward_imports(import_graph(write_modules(tmp_path, sources)))
    assert sorted(found) == ["core.loose is in no room", "core.utils.c -> core.types.a", "core.utils.c -> infer"]
