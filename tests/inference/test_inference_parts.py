"""Parts of inference: baselines, trajectories, sheets, tables."""

import math
from dataclasses import replace

import pytest
import torch

from core.inference import outputs
from core.inference.baselines import baseline_colors, render_baselines
from core.inference.report import format_table, mean_metrics, summarise
from core.inference.sheet import Tile, make_sheet
from core.inference.trajectories import MAX_KEYS, interpolate_poses, loop_times, novel_pose_keys, turntable
from core.types.frames import Frames
from smpl_renderer.rotations import axis_angle_to_matrix
from smpl_renderer.types import BodyParams

FRONT, BACK = torch.tensor([0.9, 0.2, 0.1]), torch.tensor([0.1, 0.3, 0.8])


@pytest.fixture(scope="module")
def two_sided(body):
    """Images from all around of a body with a front and a back colour; its vertex colours and normals."""
    params = BodyParams.zeros(1)
    vertices = body(params).vertices[0]
    normals = torch.zeros_like(vertices)
    corners = vertices[body.faces]
    face_normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    for k in range(3):
        normals.index_add_(0, body.faces[:, k], face_normals)
    colors = torch.where(normals[:, 2:] > 0, FRONT, BACK)
    cameras = turntable(vertices, 4, 96)[None]
    images = render_baselines({"c": colors, "a": torch.zeros_like(colors)}, body, params[0], cameras[0])
    return Frames(images["c"][None], 1 - images["a"][None, :, :1], cameras, params), colors, normals


def test_vertices_have_the_colours_of_the_pixels_that_show_them(two_sided, body):
    frames, colors, normals = two_sided
    recovered = baseline_colors(frames, body)["vertex_color"]
    # Away from the seam; samples at 96 px mix neighbouring pixels, and at silhouettes the white background.
    clear = normals[:, 2].abs() > 0.9 * normals.norm(dim=-1)
    errors = (recovered - colors).abs().amax(-1)[clear]
    assert errors.quantile(0.9) < 0.1
    # Without the depth test every vertex would be a mixture of both sides, about 0.35 away.
    assert errors.mean() < 0.05


def test_hidden_vertices_have_the_nearest_visible_color(two_sided, body):
    frames, _, normals = two_sided
    recovered = baseline_colors(frames.select_views([0]), body)["vertex_color"]  # from the front only
    backwards = normals[:, 2] < -0.9 * normals.norm(dim=-1)
    assert backwards.sum() > 500
    assert ((recovered[backwards] - FRONT).abs().amax(-1) < 0.25).float().mean() > 0.95


def test_mean_color_is_the_mean_of_the_foreground(two_sided, body):
    frames, *_ = two_sided
    (color,) = baseline_colors(frames, body)["mean_color"].unique(dim=0)
    inside = frames.alphas[0, :, 0] > 0.999
    expected = frames.images[0].movedim(1, -1)[inside].mean(0)
    torch.testing.assert_close(color, expected, rtol=0, atol=0.03)  # without the soft border


def test_turntable_images_contain_the_whole_body(body):
    poses = BodyParams.zeros(2)
    poses.body_pose[1, 15 * 3 + 2] = 1.2
    vertices = body(poses).vertices
    cameras = turntable(vertices, 8, 100)
    pixels, depths = cameras.project(vertices.reshape(-1, 3).expand(8, -1, 3))
    assert (depths > 0).all() and (pixels > 0).all() and (pixels < 100).all()
    center = (vertices.reshape(-1, 3).amin(0) + vertices.reshape(-1, 3).amax(0)) / 2
    first, second = (cameras.centers - center)[:2]
    assert first[2] > 0 and first[0].abs() < 1e-5  # from +z
    assert math.atan2(second[0], second[2]) == pytest.approx(2 * math.pi / 8, abs=1e-5)
    # The body stands upright: its head is at the top.
    top = vertices[0, :, 1].argmax()
    assert pixels[0, top, 1] < pixels[0, :, 1].mean()


def test_poses_are_interpolated_along_arcs():
    generator = torch.Generator().manual_seed(0)
    keys = BodyParams(
        betas=torch.randn(3, 10, generator=generator),
        global_orient=torch.tensor([[0.0, 3.0, 0.0], [0.0, -3.0, 0.0], [0.0, -3.0, 0.0]]),
        body_pose=0.5 * torch.randn(3, 69, generator=generator),
        transl=torch.randn(3, 3, generator=generator),
        scale=torch.tensor([1.0, 2.0, 2.0]),
    )
    times = torch.tensor([5.0, 15.0, 25.0])
    at = torch.tensor([0.0, 5.0, 10.0, 15.0, 25.0, 30.0])
    poses = interpolate_poses(keys, times, at)
    for i, key in ((0, 0), (1, 0), (3, 1), (4, 2), (5, 2)):  # at the keys, and outside their range
        for name in ("betas", "transl", "scale"):
            torch.testing.assert_close(getattr(poses, name)[i], getattr(keys, name)[key])
        actual, expected = (axis_angle_to_matrix(p.body_pose.view(23, 3)) for p in (poses[i], keys[key]))
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(poses.scale[2], torch.tensor(1.5))
    # The short arc from 3 rad to -3 rad passes pi, not 0.
    torch.testing.assert_close(
        axis_angle_to_matrix(poses.global_orient[2]),
        axis_angle_to_matrix(torch.tensor([0.0, math.pi, 0.0])),
        rtol=0,
        atol=1e-5,
    )


def test_a_single_key_is_constant():
    poses = interpolate_poses(BodyParams.zeros(1), torch.tensor([5.0]), torch.tensor([5.0, 5.0]))
    assert poses.scale.shape == (2,)


def test_loops_are_seamless():
    times = loop_times(5, 15, 10)
    assert times[0] == 5 and times[5] == 15 and times.max() == 15
    torch.testing.assert_close(times[1:], times[1:].flip(0))


@pytest.mark.parametrize(
    ("novel", "observed", "available", "expected"),
    [
        ([40, 50], [5, 45], [5, 40, 45, 47, 50, 55], [40, 47, 50]),  # all fits of the held-out interval
        ([50], [5, 40], [5, 40, 50], [40, 50]),  # one alone is no motion
        ([], [5, 40], [5, 40, 45], []),
        ([], [5, 40], [5, 10, 40, 45, 50, 55], [45, 50, 55]),  # the longest run without input frames
        ([], [5], [5, *range(10, 100)], [*range(10, 10 + MAX_KEYS)]),
    ],
)
def test_keys_of_the_novel_pose_video(novel, observed, available, expected):
    assert novel_pose_keys(novel, observed, available) == expected


def test_sheet_layout():
    red, green = (torch.tensor(c).view(3, 1, 1).expand(3, 10, 10) for c in ((1.0, 0, 0), (0, 1.0, 0)))
    sheet = make_sheet([[Tile("a", red), Tile("b", green)], [Tile("a very long label indeed", green)]], size=40)
    is_red, is_green = sheet[0] - sheet[1] > 0.9, sheet[1] - sheet[0] > 0.9
    assert is_red.sum() == 40 * 40 and is_green.sum() == 2 * 40 * 40
    assert is_red.nonzero().amax(0)[1] < is_green.nonzero().amax(0)[1]  # red stands left of green
    assert sheet.amin() < 0.5 and sheet[:, -3:].amin() == 1  # labels are there; the border is white


def test_means_and_tables():
    assert mean_metrics([{"psnr": 20.0, "lpips": None}, {"psnr": 30.0, "lpips": 0.1}]) == {"psnr": 25.0, "lpips": None}
    summary = summarise({"a": {"novel_view": {"psnr": 20.0}, "novel_pose": {}}})
    assert summary["mean"] == {"novel_view": {"psnr": 20.0}, "novel_pose": {}}
    table = format_table(["name", "psnr", "ssim"], [["a", 20.126, 0.91], ["longer", None, 0.12345]])
    assert table.splitlines() == [
        "name     psnr    ssim",
        "------  -----  ------",
        "a       20.13  0.9100",
        "longer      -  0.1235",
    ]


def test_the_camera_of_many_poses_is_found_a_few_poses_at_a_time(body):
    """The same sphere as around all vertices at once, with at most `FRAMES_PER_CALL` bodies in memory."""
    count = 2 * outputs.FRAMES_PER_CALL + 3
    generator = torch.Generator().manual_seed(0)
    poses = BodyParams.zeros(count, num_betas=body.num_betas)
    poses = replace(poses, body_pose=0.3 * torch.randn(poses.body_pose.shape, generator=generator))
    points = body(poses).vertices.reshape(-1, 3)
    middle = (points.amin(0) + points.amax(0)) / 2
    counts = []

    def counted(portion: BodyParams):
        counts.append(len(portion.scale))
        return body(portion)

    center, radius = outputs._sphere_around(counted, poses)
    torch.testing.assert_close(center, middle)
    torch.testing.assert_close(radius, (points - middle).norm(dim=-1).max())
    assert max(counts) <= outputs.FRAMES_PER_CALL
