"""Comparison of a rig's fits from some cameras with those from all."""

import pytest
import torch
from fit_scenes import observe_bodies, ring_cameras, standing_bodies

from core.capture.bodies import turned_bodies
from scripts.benchmarks import rig_fits
from scripts.benchmarks.rig_fits import RigScene, measure_rig
from smpl_renderer.fitting import FitResult


def test_true_bodies_are_the_fit_of_all_cameras(body, monkeypatch):
    """A fit that returns the truth in the frame that it is given: no distance is left, whatever the cameras."""
    truth, viewmats = standing_bodies([0.3, 1.2], scale=1.05), ring_cameras(3)
    observations = observe_bodies(truth, body, viewmats)
    calls = []

    def true_fit(seen, body, options, weights):
        calls.append(seen)
        if seen.num_cameras > 1:
            return FitResult(truth, torch.zeros(2, 3), torch.zeros(2), (), ())
        camera = int((observations.landmarks[0] - seen.landmarks[0]).abs().sum((1, 2)).argmin())
        R, t = viewmats[camera, :3, :3].numpy(), viewmats[camera, :3, 3].numpy()
        moved = turned_bodies(truth, body, R, t).to(torch.float32)
        assert seen.up is None and torch.equal(seen.viewmats[0], torch.eye(4))
        return FitResult(moved, torch.zeros(2, 3), torch.zeros(2), (), ())

    monkeypatch.setattr(rig_fits, "fit_bodies", true_fit)
    everything = FitResult(truth, torch.zeros(2, 3), torch.zeros(2), (), ())
    rows = list(measure_rig(RigScene(observations, everything, 1.0)))
    assert [row["cameras"] for row in rows] == ["1", "2", "3", "1 2", "1 2 3"]
    assert [seen.num_cameras for seen in calls] == [1, 1, 1, 2]
    for row in rows:
        assert row["raw"] == pytest.approx(0, abs=0.01) and row["PA"] == pytest.approx(0, abs=0.01)
        assert row["mask IoU"] > 0.97
        assert row["held-out IoU"] is None if row["cameras"] == "1 2 3" else row["held-out IoU"] > 0.97
    assert [row["depth"] is None for row in rows] == [False, False, False, True, True]
