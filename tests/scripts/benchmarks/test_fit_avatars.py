"""What `measure_avatars.py` compares: sizes that one camera does not show are right, and means are over subjects."""

import torch

from scripts.benchmarks.fit_avatars import KINDS, capture_options, with_right_depth
from scripts.measure_avatars import table
from smpl_renderer.types import BodyParams


def test_a_factor_about_the_camera_is_undone(body):
    generator = torch.Generator().manual_seed(0)
    truth = BodyParams.zeros(2)
    truth.body_pose[:] = 0.2 * torch.randn(2, 69, generator=generator)
    truth.transl[:] = torch.tensor([[0.1, 0.2, 3.0], [0.0, 0.1, 2.5]])
    center = torch.tensor([0.3, -0.2, 0.1])
    small = BodyParams(
        truth.betas, truth.global_orient, truth.body_pose, 0.8 * (truth.transl - center) + center, 0.8 * truth.scale
    )
    assert (body(small).vertices - body(truth).vertices).norm(dim=-1).mean() > 0.3
    right = with_right_depth(small, truth, center, body)
    torch.testing.assert_close(body(right).vertices, body(truth).vertices, rtol=0, atol=1e-5)


def test_each_kind_has_its_cameras():
    options = {kind: capture_options(kind, 0) for kind in KINDS}
    assert options["phone"].rig == "phone" and options["noise4"].cameras == options["rig4"].cameras == 4
    assert all(o.format == "capture" for o in options.values())


def test_the_table_has_means_over_subjects():
    def row(variant: str, value: float) -> dict:
        scores = {"psnr": value, "psnr_box": value - 4, "ssim": 0.9, "lpips": None}
        return {
            "kind": "phone",
            "variant": variant,
            "seconds": 2.0,
            "scores": {"true": scores, "own": scores, "fit": {"mm": 10 * value}},
        }

    lines = table([row("fits", 20.0), row("aligned", 22.0), row("fits", 24.0), row("aligned", 25.0)]).splitlines()
    assert lines[2].split()[:5] == ["phone,", "fits", "2", "18.00", "22.00"] and " 220.0 " in lines[2]
    assert lines[3].split()[:5] == ["phone,", "aligned", "2", "19.50", "23.50"]
