"""Small bodies, and classes that pickle like those of chumpy."""

import sys
import types
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest

from smpl_renderer.body_model import BodyModel


def _toy_arrays(num_betas: int = 10, num_joints: int = 4) -> dict[str, np.ndarray]:
    """Random arrays of a body of 7 vertices and a chain of joints that forks, under SMPL's names."""
    generator = np.random.default_rng(5)
    num_vertices = 7
    parents = [2**32 - 1, 0, 1, 1, *range(3, num_joints - 1)]
    weights = generator.random((num_vertices, num_joints)).astype(np.float32)
    regressor = generator.random((num_joints, num_vertices)).astype(np.float32)
    regressor[regressor < 0.5] = 0
    regressor[:, 0] += 0.1
    return {
        "v_template": generator.normal(size=(num_vertices, 3)).astype(np.float32),
        "f": np.array([[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 1], [5, 2, 1], [6, 4, 3]], dtype=np.uint32),
        "posedirs": generator.normal(size=(num_vertices, 3, 9 * (num_joints - 1))).astype(np.float32) * 0.05,
        "weights": weights / weights.sum(1, keepdims=True),
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "kintree_table": np.array([parents, range(num_joints)], dtype=np.uint32),
        # Drawn last and by component, so that the first ones do not depend on `num_betas`.
        "shapedirs": generator.normal(size=(num_betas, num_vertices, 3)).astype(np.float32).transpose(1, 2, 0) * 0.1,
    }


@pytest.fixture
def make_toy_arrays() -> Callable[..., dict[str, np.ndarray]]:
    return _toy_arrays


@pytest.fixture
def toy_arrays() -> dict[str, np.ndarray]:
    return _toy_arrays()


@pytest.fixture
def toy_body() -> BodyModel:
    return BodyModel(_toy_arrays(), name="toy")


@pytest.fixture
def chumpy(monkeypatch) -> types.SimpleNamespace:
    """Classes that pickle like those of chumpy, under the same names."""

    class Ch:
        def __init__(self, **state):
            self.__dict__.update(state, _dirty_vars=set(), _itr=None, _depends_on_deps=OrderedDict())

    class Select(Ch):
        pass

    for name, cls in (("chumpy.ch", Ch), ("chumpy.reordering", Select)):
        cls.__module__, cls.__qualname__ = name, cls.__name__
        module = types.ModuleType(name)
        setattr(module, cls.__name__, cls)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    return types.SimpleNamespace(Ch=Ch, Select=Select)
