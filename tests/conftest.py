"""Fixtures that all tests share."""

import os

from core.utils.environment import enable_fused_multiply_add, use_passive_waiting

use_passive_waiting()
enable_fused_multiply_add()

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton: kernels run in its interpreter

from smpl_renderer.body_files import STANDIN_BODY, load_body
from smpl_renderer.body_model import BodyModel

pytest_plugins = ["model_fixtures", "quick_interpreter", "warm_python"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Files with slow tests come first, so that two processes that share the files end at about the same time.
    slow_files = {item.path for item in items if "slow" in item.keywords}
    items.sort(key=lambda item: item.path not in slow_files)
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def body() -> BodyModel:
    """The shipped stand-in. Do not change it: `copy.deepcopy` it first to move it to another device or dtype."""
    return load_body(STANDIN_BODY)


@pytest.fixture(scope="module")
def one_thread():
    """One thread: on several, small tensors are slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def poisoned_memory():
    """New memory filled with NaN, so that values that a kernel does not write are visible."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
