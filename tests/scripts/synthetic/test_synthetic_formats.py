"""The two formats of synthetic captures: equal cameras, fits, images and masks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.readers import open_capture
from scripts.synthetic import CaptureOptions, write_dataset
from scripts.synthetic.contact_sheet import write_contact_sheet
from scripts.synthetic.layout import image_pairs
from smpl_renderer.errors import InputError

FRAMES = (5, 30)
SIZES = {"48": (54, 48), "phone": (45, 80)}


def options(rig: str, format: str) -> CaptureOptions:
    width, height = SIZES[rig]
    return CaptureOptions(
        rig=rig, cameras=3, frames=FRAMES, width=width, height=height, fit_noise=0.02, format=format, samples=1
    )


@pytest.fixture(scope="module", params=["48", "phone"])
def folders(request, tmp_path_factory) -> tuple[Path, Path]:
    """The same person in MVHumanNet's layout and in our own format."""
    root = tmp_path_factory.mktemp("formats")
    for format in ("mvhumannet", "capture"):
        write_dataset(root / format, {"209007": 7}, options(request.param, format))
    return root / "mvhumannet" / "209007", root / "capture" / "209007"


@pytest.mark.slow
def test_cameras_agree(folders):
    mvhumannet, ours = folders
    content = json.loads((ours / "capture.json").read_text())
    capture = open_capture(mvhumannet)
    assert sorted(content["cameras"]) == capture.camera_names and content["up"] == "-z"
    for name, record in content["cameras"].items():
        width, height = Image.open(ours / f"images/{name}/0005.jpg").size
        assert (record["width"], record["height"]) == (width, height)
        expected = capture.cameras([name])[0].resized(width, height)
        np.testing.assert_allclose(record["K"], expected.Ks.numpy(), rtol=1e-6)
        np.testing.assert_allclose(record["T_cam_world"], expected.viewmats.numpy(), atol=1e-6)


@pytest.mark.slow
def test_fits_agree(folders, body):
    mvhumannet, ours = folders
    content = json.loads((ours / "capture.json").read_text())
    assert content["body"] == {"name": body.name, "fingerprint": body.fingerprint}
    assert [(frame["id"], frame["time"]) for frame in content["frames"]] == [(5, 0.2), (30, 1.2)]
    for frame in content["frames"]:
        fit = json.loads((ours / frame["fit"]).read_text())
        expected = open_capture(mvhumannet).fit(frame["id"], body)
        for name, value in fit.items():
            torch.testing.assert_close(torch.tensor(value), getattr(expected, name).float(), rtol=0, atol=1e-6)
        assert fit.keys() == {"betas", "global_orient", "body_pose", "transl", "scale"}


def test_the_reader_returns_the_same_capture(folders, body):
    """Cameras, fits and pixels of both formats, read through the common interface."""
    mvhumannet, ours = (open_capture(folder) for folder in folders)
    assert ours.camera_names == mvhumannet.camera_names and ours.body_fingerprint == mvhumannet.body_fingerprint
    for name in ours.camera_names:
        pixels = [capture.image(name, 5) for capture in (ours, mvhumannet)]
        assert (pixels[0] == pixels[1]).all()
        height, width = pixels[0].shape[:2]
        a, b = (capture.cameras([name])[0].resized(width, height) for capture in (ours, mvhumannet))
        torch.testing.assert_close(a.viewmats, b.viewmats, rtol=0, atol=1e-6)
        torch.testing.assert_close(a.Ks, b.Ks, rtol=1e-6, atol=0)
    for frame in FRAMES:
        a, b = (capture.fit(frame, body) for capture in (ours, mvhumannet))
        for field in ("betas", "global_orient", "body_pose", "transl", "scale"):
            torch.testing.assert_close(getattr(a, field), getattr(b, field), rtol=0, atol=1e-6)


def test_images_and_masks_are_the_same_files(folders):
    mvhumannet, ours = folders
    content = json.loads((ours / "capture.json").read_text())
    pairs = {
        name: [(ours / f["images"][name], ours / f["masks"][name]) for f in content["frames"]]
        for name in content["cameras"]
    }
    assert pairs == image_pairs(ours)
    for name, expected in image_pairs(mvhumannet).items():
        for pair, same in zip(pairs[name], expected, strict=True):
            for a, b in zip(pair, same, strict=True):
                assert a.read_bytes() == b.read_bytes()


def test_sets_resume_and_formats_do_not_mix(folders, tmp_path, caplog):
    """Complete captures are kept; those of the other format are not listed in `human.json`."""
    ours = folders[1]
    rig = json.loads((ours / "capture.json").read_text())["source"]["options"]["rig"]
    before = (ours / "capture.json").stat().st_mtime_ns
    write_dataset(ours.parent, {"209007": 7}, options(rig, "capture"))
    assert (ours / "capture.json").stat().st_mtime_ns == before
    assert json.loads((ours.parent / "human.json").read_text())["human_id"] == ["209007"]
    write_contact_sheet(tmp_path / "sheet.png", [ours], height=40)
    assert Image.open(tmp_path / "sheet.png").height == 40
    write_dataset(ours.parent, {}, options(rig, "mvhumannet"))
    assert json.loads((ours.parent / "human.json").read_text())["human_id"] == []
    assert "1 captures have other cameras" in caplog.text


def test_holes_and_unknown_formats_are_an_error():
    with pytest.raises(InputError, match="holes"):
        CaptureOptions(format="capture", holes=True)
    with pytest.raises(InputError, match="format zip: must be one of mvhumannet, capture"):
        CaptureOptions(format="zip")
