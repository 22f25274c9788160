"""scripts/benchmark.py: it runs, and what it draws is a figure."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from core.benchmarks.render import body_cloud, ring
from core.render import rasterize

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"


def benchmark(*arguments):
    command = [sys.executable, SCRIPT, "render", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_render_prints_a_table_and_writes_numbers(tmp_path):
    out = tmp_path / "timings.json"
    job = ("--gaussians", 20, 30, "--views", 2, "--size", 16, "--repeats", 1, "--device", "cpu")
    result = benchmark(*job, "--out", out)
    assert result.returncode == 0, result.stderr
    assert "forward + backward ms" in result.stdout
    timings = json.loads(out.read_text())["render"]
    assert [(t["backend"], t["gaussians"], t["views"], t["size"]) for t in timings] == [
        ("torch", 20, 2, 16),
        ("torch", 30, 2, 16),
    ]
    assert all(t["forward_ms"] > 0 for t in timings)


def test_backend_that_does_not_exist_is_one_line():
    result = benchmark("--backends", "opengl", "--gaussians", 20, "--size", 16, "--device", "cpu")
    assert result.returncode == 2
    assert "error: no rasterizer is called 'opengl'" in result.stderr


@pytest.mark.parametrize("view", [0, 2])
def test_workload_is_a_figure_in_the_picture(view):
    cameras = ring(8, 64)
    alphas = rasterize(body_cloud(3000, 0), cameras.viewmats, cameras.Ks, 64, 64).alphas[view, 0]
    rows, columns = (alphas > 0.5).any(1).nonzero(), (alphas > 0.5).any(0).nonzero()
    # It stands upright in the middle, 1.7 m in a picture of 2.2 m, and touches no border.
    height, width = rows.max() - rows.min(), columns.max() - columns.min()
    assert 40 < height < 58 and width < height
    assert rows.min() > 2 and rows.max() < 61
