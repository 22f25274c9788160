"""The page on limits has the values of the code, and every bound on the size of a file."""

import ast
import importlib
import re

import pytest

from smpl_renderer.files import REPOSITORY

UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
ROW = re.compile(r"^\| [^|]+ \| ([0-9,]+) ?(KiB|MiB|GiB|) \| `([a-z0-9_.]+)\.([A-Z_]+)` \|$", re.MULTILINE)
ROWS = ROW.findall((REPOSITORY / "docs" / "limits.md").read_text())
READERS = {
    "check_file",
    "check_text",
    "check_archive",
    "load_text",
    "load_json",
    "load_npz",
    "load_torch",
    "open_tensors",
}


@pytest.mark.parametrize(("number", "unit", "module", "name"), ROWS, ids=[".".join(row[2:]) for row in ROWS])
def test_the_page_states_the_constants(number, unit, module, name):
    assert int(number.replace(",", "")) * UNITS[unit] == getattr(importlib.import_module(module), name)


def test_the_page_has_every_bound_of_a_reader():
    """A bound is a constant that a call of a bounded reader names."""
    used = set()
    for folder in ("core", "smpl_renderer"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_text())):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in READERS:
                    values = [*call.args, *(keyword.value for keyword in call.keywords)]
                    used |= {value.id for value in values if isinstance(value, ast.Name) and "MAX_" in value.id}
    assert len(used) > 15
    assert used <= {name for *_, name in ROWS}
