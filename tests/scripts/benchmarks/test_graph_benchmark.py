"""scripts/benchmark.py graph: output, and a realistic distribution of Gaussians over the vertices."""

import json
from pathlib import Path

import pytest
import torch
from forked_script import run_script

from scripts.benchmarks.graph import random_assignment

SCRIPT = Path(__file__).parents[3] / "scripts" / "benchmark.py"


@pytest.mark.slow
def test_graph_prints_tables_and_writes_timings(tmp_path):
    out = tmp_path / "timings.json"
    job = ["--queries", 1, 2, "--features", 16, "--layers", 1, "--frames", 2, "--gaussians", 20, "--dtypes", "fp32"]
    job += ["--operations", "reference", "kernels", "recorded"]  # the last by its earlier name
    job += ["--repeats", 1, "--device", "cpu", "--out", out]
    result = run_script(SCRIPT, "graph", *job)
    assert result.returncode == 0, result.stderr
    assert "forward + backward ms" in result.stdout and "nearest vertex" in result.stdout
    results = json.loads(out.read_text())
    assert [(t["operations"], t["queries"], t["gaussians"]) for t in results["graph"]] == [
        ("reference", 1, 40),
        ("kernels", 1, 40),
        ("cuda-graph", 1, 40),
        ("reference", 2, 40),
        ("kernels", 2, 40),
        ("cuda-graph", 2, 40),
    ]
    assert all(t["forward_ms"] > 0 for t in results["graph"])
    assert all((t["points"], t["inside"]) == (280, 40) for t in results["nearest"])


def test_some_vertices_have_no_gaussian_and_some_have_many():
    vertex_ids, mask = random_assignment(4, 9000, 6890, seed=0)
    assert mask.sum(-1).tolist() == [[9000] * 4]
    counts = torch.bincount(vertex_ids[mask], minlength=6890)
    assert (counts == 0).float().mean() > 0.3
    assert counts.max() > 40
