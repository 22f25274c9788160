"""scripts/benchmark.py render: output, errors, and a workload that shows a person."""

import datetime
import json
from pathlib import Path

import pytest
import torch
from forked_script import run_script

from core.render import rasterize
from scripts.benchmarks.render import RenderTiming, default_backends, time_render, with_ratios
from scripts.benchmarks.splat_scenes import body_cloud, ring
from smpl_renderer.errors import InputError

SCRIPT = Path(__file__).parents[3] / "scripts" / "benchmark.py"


def benchmark(*arguments):
    return run_script(SCRIPT, "render", *arguments)


@pytest.mark.slow
def test_render_prints_a_table_and_writes_timings(tmp_path):
    out = tmp_path / "timings.json"
    job = ("--gaussians", 20, 30, "--views", 2, "--size", 16, "--repeats", 1, "--device", "cpu")
    result = benchmark(*job, "--out", out)
    assert result.returncode == 0, result.stderr
    assert "forward + backward ms" in result.stdout
    timings = json.loads(out.read_text())["render"]
    names = default_backends(torch.device("cpu"))
    assert names[-1] == "torch"
    assert [(t["backend"], t["gaussians"], t["views"], t["size"]) for t in timings] == [
        (name, count, 2, 16) for count in (20, 30) for name in names
    ]
    for t in timings:
        assert all(t[name] > 0 for name in ("forward_ms", "forward_backward_ms", "host_ms"))
        assert t["graph_ms"] is None and t["peak_mb"] is None  # no GPU
        if t["backend"] == "torch":
            assert t["forward_ratio"] == t["forward_backward_ratio"] == 1  # compared with itself
    assert f"{datetime.date.today()}" in result.stdout.splitlines()[-1]


@pytest.mark.slow
def test_an_unknown_backend_is_reported_in_one_line():
    result = benchmark("--backends", "opengl", "--gaussians", 20, "--size", 16, "--device", "cpu")
    assert result.returncode == 2
    assert "error: unknown rasterizer 'opengl'" in result.stderr


@pytest.mark.parametrize(
    ("backends", "expected"),
    [
        (("triton", "gsplat", "diff_gaussian_rasterization"), [4.0, 1.0, 0.5]),
        (("triton", "diff_gaussian_rasterization"), [8.0, 1.0]),  # the other peer is not installed
        (("triton", "torch"), [8.0, 1.0]),
        (("torch", "triton"), [1.0, 8.0]),
    ],
)
def test_ratios_are_relative_to_a_peer_if_one_is_timed(backends, expected):
    times = {"triton": 0.5, "gsplat": 2.0, "diff_gaussian_rasterization": 4.0, "torch": 4.0}
    timings = [RenderTiming(name, 10, 1, 16, times[name], 3 * times[name]) for name in backends]
    compared = with_ratios(timings)
    assert [t.forward_ratio for t in compared] == [t.forward_backward_ratio for t in compared] == expected


def test_cases_that_exceed_the_memory_have_no_timings(monkeypatch):
    def fail(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("scripts.benchmarks.render_job.rasterize", fail)
    timing = time_render("torch", 10, 1, 16, 1, torch.device("cpu"))
    assert timing == RenderTiming("torch", 10, 1, 16)
    assert with_ratios([timing]) == [timing]


def test_a_peer_that_cannot_be_loaded_is_omitted_with_a_warning(monkeypatch, caplog):
    def load(name, device):
        if name == "gsplat":
            raise InputError("backend gsplat is installed but cannot be loaded: undefined symbol")

    names = {"cuda": ("torch", "triton", "gsplat"), "cpu": ("torch", "numba")}
    monkeypatch.setattr("scripts.benchmarks.render.available_backends", lambda device: names[device.type])
    monkeypatch.setattr("scripts.benchmarks.render.load_backend", load)
    assert default_backends(torch.device("cuda")) == ("triton",)
    assert "undefined symbol" in caplog.text
    assert default_backends(torch.device("cpu")) == ("numba", "torch")


@pytest.mark.parametrize("view", [0, 2])
def test_workload_shows_a_person(view):
    cameras = ring(8, 64)
    alphas = rasterize(body_cloud(3000, 0), cameras.viewmats, cameras.Ks, 64, 64).alphas[view, 0]
    rows, columns = (alphas > 0.5).any(1).nonzero(), (alphas > 0.5).any(0).nonzero()
    # Upright in the centre, 1.7 m in an image of 2.2 m, without touching a border.
    height, width = rows.max() - rows.min(), columns.max() - columns.min()
    assert 40 < height < 58 and width < height
    assert rows.min() > 2 and rows.max() < 61
