"""infer.py from end to end, with a tiny random network on tiny captures."""

import json
import re
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from motion_files import Truth, write_bvh
from PIL import Image
from plyfile import PlyData
from tiny_capture import TinyCapture

import infer
from core.avatar.avatar import canonical_gaussians
from core.avatar.file import load_avatar, load_views_seen
from core.export.ply import load_ply
from core.inference import outputs
from core.inference.outputs import FILES
from core.inference.session import open_session
from core.inference.subject import open_subject
from smpl_renderer.errors import InputError

FRAMES = (5, 10, 15, 20)


def test_writes_everything_for_a_subject(options, body, small_protocol):
    infer.main(options)
    folder = options.workspace / "209801"
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)
    assert sorted(p.name for p in options.workspace.iterdir()) == ["209801", "index.html"]  # no temporary files
    for page in (folder / "index.html", options.workspace / "index.html"):
        links = re.findall(r'(?:src|href)="([^"#]+)"', page.read_text())
        assert len(links) > 5 and all((page.parent / link).is_file() for link in links)
        assert page.read_text().count("python scripts/") == 3 and "<iframe" in page.read_text()

    avatar = load_avatar(folder / "avatar.safetensors")
    assert avatar.body == body.fingerprint and avatar.count == body.num_vertices
    seen = load_views_seen(folder / "avatar.safetensors", body.num_vertices)
    assert 0.3 < (seen > 0).float().mean() <= 1  # stored for the viewer
    expected = canonical_gaussians(avatar, body)
    assert not [name for name in ply_properties(folder / "avatar.ply") if name.startswith("f_rest_")]
    read = load_ply(folder / "avatar.ply")
    torch.testing.assert_close(read.means, expected.means, rtol=0, atol=1e-5)
    torch.testing.assert_close(read.colors, expected.colors, rtol=0, atol=1e-5)

    for name in ("turntable.mp4", "novel_pose.mp4"):
        with av.open(str(folder / name)) as container:
            frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        assert [f.shape for f in frames] == [(48, 48, 3)] * 3
        # Each image shows the subject, on white.
        assert all(f.min() < 150 and np.median(f) > 240 for f in frames)
        assert np.abs(frames[0].astype(int) - frames[1]).max() > 30  # the camera or the body moves
    with Image.open(folder / "comparison.png") as sheet:
        assert sheet.width > 4 * 300 and sheet.height > 3 * 300  # inputs, novel views, novel poses


@pytest.mark.slow
@pytest.mark.parametrize("images", [outputs.turntable_images, outputs.novel_pose_images])
def test_videos_do_not_depend_on_the_frames_per_call(options, small_protocol, monkeypatch, images):
    subject = open_subject(open_session(options), options.captures)
    frames = {}
    for size in (1, 2, 16):
        monkeypatch.setattr(outputs, "FRAMES_PER_CALL", size)
        frames[size] = torch.stack(list(images(subject)))
    assert frames[1].shape == (3, 3, 48, 48)
    for size in (2, 16):
        torch.testing.assert_close(frames[size], frames[1], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_one_camera_and_chosen_frames(options, small_protocol, no_player):
    infer.main(replace(options, input_views=("22236222",), observed_frames=(10, 20)))
    assert (options.workspace / "209801" / "comparison.png").is_file()


def sheet_rows(workspace: Path, subject: str = "209801") -> int:
    with Image.open(workspace / subject / "comparison.png") as sheet:
        return sheet.height // (300 + 20)


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"observed_frames": (5,)}, {"observed_frames": FRAMES}])
def test_all_cameras_as_inputs(options, change, small_protocol, no_player):
    """There is no novel view; the sheet has the inputs, their renderings and, if there are any, novel poses."""
    cameras = tuple(path.name for path in (options.captures / "images_lr").iterdir())
    infer.main(replace(options, input_views=cameras, **change))
    assert sheet_rows(options.workspace) == (3 if change["observed_frames"] == (5,) else 2)
    assert sorted(p.name for p in (options.workspace / "209801").iterdir()) == sorted(FILES)


@pytest.mark.slow
def test_a_capture_of_one_frame_has_a_novel_pose_video(options, body, tmp_path, small_protocol, no_player):
    """Without further fits a built-in motion is shown."""
    capture = TinyCapture(image_size=(153, 128), frames=(5,)).write(tmp_path / "209806", body)
    infer.main(replace(options, captures=capture, evaluate=True))
    subject = open_subject(open_session(options), capture)
    poses, _ = outputs.novel_poses(subject)
    assert poses.body_pose.shape == (options.video_frames, 69)
    assert (poses.body_pose - subject.inputs.body.body_pose).abs().max() > 0.3
    with av.open(str(options.workspace / "209806" / "novel_pose.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == options.video_frames
    assert sheet_rows(options.workspace, "209806") == 2
    metrics = json.loads((options.workspace / "metrics.json").read_text())
    assert metrics["mean"]["novel_pose"] == {} and metrics["mean"]["novel_view"]["psnr"] > 5


@pytest.mark.slow
def test_the_video_shows_a_motion_by_name_or_file(options, body, tmp_path, monkeypatch):
    motion = write_bvh(tmp_path / "clip.bvh", Truth(body, 48.0, count=11), "mixamo")
    for given, count in ((str(motion), 6), ("walk", 3)):  # 10 / 48 seconds at 24 frames per second
        some = replace(options, motion=given, video_frames=None)
        session = replace(open_session(some), video_frames=3)
        subject = open_subject(session, options.captures)
        poses, follows = outputs.novel_poses(subject)
        assert len(poses.scale) == count and follows
        frames = list(outputs.novel_pose_images(subject))
        assert len(frames) == count and all(frame.min() < 0.6 for frame in frames)
    with pytest.raises(InputError, match="moonwalk"):
        open_session(replace(options, motion="moonwalk"))


@pytest.mark.slow
def test_one_image_as_input(options, small_protocol, no_player):
    infer.main(replace(options, observed_frames=(5,), input_views=("22236222",)))
    assert sheet_rows(options.workspace) == 3


def ply_properties(path: Path) -> list[str]:
    return [p.name for p in PlyData.read(str(path))["vertex"].properties]


@pytest.mark.slow
def test_ply_with_harmonics_for_other_viewers(options, body, no_player):
    infer.main(replace(options, ply_degree=3))
    path = options.workspace / "209801" / "avatar.ply"
    names, vertices = ply_properties(path), PlyData.read(str(path))["vertex"]
    assert [n for n in names if n.startswith("f_rest_")] == [f"f_rest_{i}" for i in range(45)]
    assert all((vertices[f"f_rest_{i}"] == 0).all() for i in range(45))
    colors = canonical_gaussians(load_avatar(path.with_suffix(".safetensors")), body).colors
    torch.testing.assert_close(load_ply(path).colors, colors, rtol=0, atol=1e-5)
    assert names.index("f_rest_0") == names.index("f_dc_2") + 1
    assert names.index("f_rest_44") == names.index("opacity") - 1
