"""Camera paths and renderings of motions, and scripts/animate.py."""

import json
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from forked_script import run_script
from motion_files import Truth, write_bvh
from PIL import Image

from core.avatar.avatar import Avatar
from core.avatar.file import save_avatar
from core.inference.animation import camera_path, render_motion
from core.motion.builtin import builtin_motion
from core.motion.motion import apply_motion, resample
from core.types.cameras import look_at
from core.utils.ranges import checked
from scripts.animate import main
from smpl_renderer.errors import InputError

SCRIPT = Path(__file__).parents[2] / "scripts" / "animate.py"


@pytest.fixture(scope="module")
def poses(body):
    """A walk of one metre per second."""
    clip = resample(builtin_motion("walk", body), 4.0, count=6)
    walked = clip.pelvis + torch.arange(6)[:, None] * torch.tensor([0.0, 0.0, 0.25])
    return apply_motion(type(clip)(clip.global_orient, clip.body_pose, walked, 4.0, "walk"), body, torch.zeros(10))


@pytest.mark.parametrize("path", ["fixed", "follow", "orbit"])
def test_every_camera_sees_the_whole_body(body, poses, path):
    cameras = camera_path(body, poses, 100, path, fps=4.0)
    pixels, depths = cameras.project(body(poses).vertices)
    assert depths.min() > 0 and pixels.min() > 0 and pixels.max() < 100


def test_a_following_camera_keeps_the_pelvis_and_a_fixed_one_stays(body, poses):
    follow, fixed = (camera_path(body, poses, 100, path) for path in ("follow", "fixed"))
    pelvis = body(poses).joints[:, :1]
    pixels, _ = follow.project(pelvis)
    assert np.ptp(pixels[:, 0, 0].numpy()) < 0.1  # it moves up and down with the steps, but not sideways
    assert (fixed.viewmats == fixed.viewmats[0]).all()
    assert np.ptp(fixed.project(pelvis)[1].numpy()) > 1.0  # comes 1.25 m nearer


@pytest.mark.slow
def test_rendering_in_portions_changes_no_image(body, poses, plain: Avatar, monkeypatch):
    cameras = camera_path(body, poses, 32)
    whole = list(render_motion(plain[0], body, poses, cameras))
    monkeypatch.setattr("core.inference.animation.FRAMES_PER_CALL", 4)
    parts = list(render_motion(plain[0], body, poses, cameras))
    assert len(whole) == len(parts) == 6
    for a, b in zip(whole, parts):
        torch.testing.assert_close(a.colors, b.colors)
    assert 0.05 < whole[0].alphas.mean() < 0.5


@pytest.fixture(scope="module")
def avatar_file(plain: Avatar, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("avatar") / "avatar.safetensors"
    save_avatar(path, plain[0])
    return path


def run(*arguments: object) -> subprocess.CompletedProcess:
    return run_script(SCRIPT, *arguments, "--device", "cpu")


@pytest.mark.slow
def test_script_writes_videos_and_transparent_images(avatar_file, tmp_path):
    small = ("--size", 32, "--fps", 4, "--seconds", 1)
    video, folder = tmp_path / "a video.mp4", tmp_path / "frames"
    done = run(avatar_file, "wave", "--out", video, *small)
    assert done.returncode == 0, done.stderr
    with av.open(str(video)) as container:
        assert [frame.width for frame in container.decode(video=0)] == [32] * 4
    done = run(avatar_file, "sit", "--out", folder, "--background", "transparent", *small)
    assert done.returncode == 0, done.stderr
    images = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
    assert len(images) == 4 and images[0].shape == (32, 32, 4)
    assert images[0][0, 0, 3] == 0 and images[0][..., 3].max() > 200


@pytest.mark.slow
def test_script_takes_a_motion_file_a_camera_file_and_writes_webm(avatar_file, body, tmp_path):
    motion = write_bvh(tmp_path / "clip.bvh", Truth(body, 60.0, count=30), "mixamo")
    viewmat = look_at(*torch.tensor([[0.0, 1.0, 3.5], [0.0, 0.9, 0.0], [0.0, 1.0, 0.0]]))
    camera = {"K": [[80, 0, 32], [0, 80, 24], [0, 0, 1]], "width": 64, "height": 48, "T_cam_world": viewmat.tolist()}
    (tmp_path / "cameras.json").write_text(json.dumps({"cameras": [camera]}))
    out = tmp_path / "clip.webm"
    given = ("--camera", tmp_path / "cameras.json", "--background", "transparent", "--fps", 10)
    done = run(avatar_file, motion, "--out", out, *given)
    assert done.returncode == 0, done.stderr
    with av.open(str(out)) as container:
        frames = list(container.decode(video=0))
        assert [(frame.width, frame.height) for frame in frames] == [(64, 48)] * 5  # 29 / 60 seconds


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"motion": "moonwalk"}, "no built-in motion"),
        ({"fps": 0}, "--fps"),
        ({"size": -64}, "--size"),
        ({"background": "#12"}, "--background"),
        ({"background": "transparent", "out": Path("x.mp4")}, "alpha"),
        ({"out": Path("x.gif")}, r"\.gif is not written; give a video"),
        ({"camera": "behind"}, "--camera"),
        ({"person": 0}, "--person"),
    ],
)
def test_script_refuses_what_it_cannot_do(avatar_file, given, message):
    with pytest.raises(InputError, match=message):
        checked(main)(avatar_file, device="cpu", **given)


@pytest.mark.slow
def test_script_ends_in_one_line(avatar_file):
    done = run(avatar_file, "moonwalk")
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1 and "no built-in motion" in lines[0], done.stderr
