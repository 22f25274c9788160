"""scripts/benchmark.py animate: output, and a workload that shows a person."""

import json

import torch

from core.avatar.rendering import render_avatar
from scripts.benchmarks.animate import animate, one_camera_each, random_avatar, random_poses


def test_prints_a_table_and_writes_timings(tmp_path, capsys):
    out = tmp_path / "timings.json"
    animate(gaussians=(20, 30), poses=2, size=16, repeats=1, device="cpu", out=out)
    assert "frames/s" in capsys.readouterr().out
    timings = json.loads(out.read_text())["animate"]
    assert [(t["gaussians"], t["poses"], t["size"]) for t in timings] == [(20, 2, 16), (30, 2, 16)]
    assert all(t["pose_ms"] > 0 and t["both_ms"] > 0 and t["graph_ms"] is None for t in timings)


def test_workload_shows_a_person_in_a_new_pose_in_each_image(body):
    avatar = random_avatar(body, 3000)
    alphas = render_avatar(avatar, body, random_poses(body, 3, 0), one_camera_each(3, 64)).alphas[:, 0, 0]
    covered = alphas > 0.5
    assert (covered.float().mean((1, 2)) > 0.05).all() and not covered[:, [0, -1]].any()
    heights = covered.any(2).sum(1)
    assert (heights > 35).all() and (heights < 60).all()
    assert (covered[0] != covered[1]).float().mean() > 0.02
    assert avatar.vertex_ids.unique().numel() == 3000
    assert torch.equal(random_poses(body, 3, 0).body_pose, random_poses(body, 3, 0).body_pose)
