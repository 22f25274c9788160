"""scripts/benchmark.py render --scale: pairs, the order of the cases, resumption, and what it writes."""

import importlib.util
import json
import os

import pytest
import torch
from render_scenes import hard_scene

from core.render import projection
from scripts.benchmarks import render_scale
from scripts.benchmarks.render_scale import Case, ScaleTiming, count_pairs, format_scale, measure, plan_cases
from scripts.benchmarks.splat_scenes import SCENES, ring
from smpl_renderer.errors import InputError

CPU = torch.device("cpu")
CASE = Case("body", 50, 1, 16)


def timing(case: Case, backend: str, forward: float | None, both: float | None = 1.0) -> ScaleTiming:
    return ScaleTiming(*vars(case).values(), backend, 2_000_000, forward, both)


def brute_force_pairs(scene, tile: int) -> int:
    """Pairs of a splat and a tile with alpha >= ALPHA_MIN at a pixel centre."""
    cameras, count = scene.cameras, 0
    for viewmat, K in zip(cameras.viewmats, cameras.Ks):
        splats = projection.project(scene.gaussians, viewmat, K, cameras.width, cameras.height)
        x = torch.arange(cameras.width) + 0.5 - splats.means2d[:, 0, None]
        y = torch.arange(cameras.height) + 0.5 - splats.means2d[:, 1, None]
        p, q, r = (splats.whiteners[:, i, None, None] for i in range(3))
        power = (p * x[:, None] + q * y[:, :, None]).square() + (r * y[:, :, None]).square()
        seen = scene.gaussians.opacities[:, None, None] * torch.exp(-power / 2) >= projection.ALPHA_MIN
        seen &= (splats.extents[:, 0] > 0)[:, None, None]
        seen = torch.nn.functional.pad(seen, (0, -cameras.width % tile, 0, -cameras.height % tile))
        count += int(seen.unflatten(2, (-1, tile)).unflatten(1, (-1, tile)).any(4).any(2).sum())
    return count


@pytest.mark.parametrize("tile", [8, 16])
def test_pairs_are_those_of_an_exact_test(tile):
    scene = hard_scene(seed=2, count=200, views=2, width=75, height=58)
    expected = brute_force_pairs(scene, tile)
    # An ellipse may pass between pixel centres.
    assert expected <= count_pairs(scene.gaussians, scene.cameras, tile) < 1.05 * expected


def test_the_most_important_cases_come_first():
    cases = plan_cases((), (1, 8, 32), (), ())
    assert cases[0] == Case("body", 160_000, 8, 512)
    assert len(cases) == len(set(cases)) == 6 * 3 * 2 * 4
    assert {(c.scene, c.size) for c in cases[:18]} == {("body", 512)}
    assert plan_cases((7,), (2,), (16,), ("box",)) == [Case("box", 7, 2, 16)]
    with pytest.raises(InputError, match="body, box, crowd, screen"):
        plan_cases((), (1,), (), ("forest",))


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_measurements_are_continued_on_the_same_machine(tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "scale.json"
    measure(("torch",), [CASE], CPU, 1.0, 1, out)
    (first,) = json.loads(out.read_text())["scale"]
    assert first["backend"] == "torch" and first["forward_ms"] > 0 and first["pairs"] > 0
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert "forward vs torch" in capsys.readouterr().out

    timed = []
    monkeypatch.setattr(
        render_scale, "time_case", lambda name, case, *_: timed.append((name, case)) or timing(case, name, 1.0)
    )
    larger = Case("body", 60, 1, 16)
    measure(("torch", "numba"), [CASE, larger], CPU, 1.0, 1, out)
    assert timed == [("numba", CASE), ("torch", larger), ("numba", larger)]
    monkeypatch.setattr(render_scale, "machine", lambda device: "another")
    measure(("torch",), [CASE], CPU, 1.0, 1, out)
    assert timed[3:] == [("torch", CASE)]
    assert json.loads(out.read_text())["machine"] == "another"


def test_no_case_starts_after_the_time_or_beyond_one_that_failed(tmp_path, monkeypatch):
    timed = []

    def time_case(name, case, *_):
        timed.append(case)
        return timing(case, name, None, None) if case.gaussians == 60 else timing(case, name, 1.0)

    monkeypatch.setattr(render_scale, "time_case", time_case)
    monkeypatch.setattr(render_scale, "draw", lambda *_: None)
    cases = [Case("body", n, v, 16) for n, v in ((60, 2), (60, 1), (70, 2), (60, 3), (50, 4))]
    measure(("torch",), cases, CPU, 1.0, 1, tmp_path / "a.json")
    assert timed == [cases[0], cases[1], cases[4]]
    measure(("torch",), cases, CPU, 1e-9, 1, tmp_path / "b.json")
    assert len(timed) == 3


def test_a_case_that_exceeds_the_memory_has_no_times(monkeypatch):
    def fail(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("scripts.benchmarks.render_job.rasterize", fail)
    result = render_scale.time_case("torch", CASE, 3, CPU, 1)
    assert result == ScaleTiming(*vars(CASE).values(), "torch", 3)


def test_a_binning_that_cannot_work_is_not_timed(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("HGG_BINNING", "auto")
    huge = Case("body", 1_000_000, 32, 1024)
    assert render_scale.time_case("triton:cells", huge, 3, CPU, 1).both_ms is None
    assert render_scale._can_bin("pairs", huge, CPU) and render_scale._can_bin("auto", huge, CPU)
    assert os.environ["HGG_BINNING"] == "auto"


def test_ratios_are_relative_to_a_peer():
    table = format_scale([timing(CASE, name, ms) for name, ms in (("triton:pairs", 2.0), ("gsplat", 3.0))])
    header, _, ours, _ = table.splitlines()
    assert "forward vs gsplat" in header
    assert ours.split()[-2:] == ["1.50", "1.00"]
    assert "1.00" in ours.split()  # 2 ms for two million pairs: a nanosecond each


@pytest.mark.parametrize("name", SCENES)
def test_scenes_have_the_number_of_gaussians_and_are_repeatable(name):
    gaussians, again = (SCENES[name](230, 3) for _ in range(2))
    assert all(len(x) == 230 for x in vars(gaussians).values())
    assert all(torch.equal(a, b) for a, b in zip(vars(gaussians).values(), vars(again).values()))
    camera = ring(1, 64)
    assert count_pairs(gaussians, camera, 8) > 100
    if name == "crowd":
        assert gaussians.means[:, 2].abs().max() > 1  # not one person alone
