"""Aligned inputs of `infer.py`: off for captures of others, consistent in the world, on disk and in metrics."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_capture import TinyCapture
from tiny_network import TINY_UNET

import infer
from core.capture.overlay import Tile, write_sheet
from core.checkpoint import save_checkpoint
from core.data.readers import open_capture
from core.data.subject_frame import posed_pelvis
from core.inference import aligned_overlay, evaluation, outputs
from core.inference.aligned_inputs import ALIGNMENT_FILE, apply_alignment
from core.inference.alignment import AlignOptions
from core.inference.options import InferenceOptions
from core.inference.result_page import ALIGNED_SHEET
from core.inference.session import open_session
from core.inference.subject import make_avatar, open_subject
from core.model.hgg import HumanGaussianGraph
from core.options import GraphOptions, ModelOptions

VIEWS = ("22327091", "22236236")


@pytest.fixture(scope="module")
def files(tmp_path_factory, body):
    """A capture and a random network."""
    folder = tmp_path_factory.mktemp("aligned")
    TinyCapture(image_size=(153, 128), frames=(5, 10, 15)).write(folder / "209801", body)
    torch.manual_seed(0)
    model = ModelOptions(unet=TINY_UNET, graph=GraphOptions(features=16, queries=1, layers=1, heads=2))
    save_checkpoint(folder / "tiny.safetensors", HumanGaussianGraph(model, body), step=1)
    return folder


@pytest.fixture
def options(files, tmp_path):
    return InferenceOptions(
        captures=files / "209801",
        checkpoint=files / "tiny.safetensors",
        workspace=tmp_path / "out",
        device="cpu",
        refine=0,
        input_size=64,
        video_size=48,
        video_frames=2,
        input_views=VIEWS,
        observed_frames=(5, 10),
        novel_frames=(15,),
    )


@pytest.fixture
def aligned(options):
    return open_subject(open_session(replace(options, align=3)), options.captures)


@pytest.mark.slow
def test_without_alignment_nothing_changes(options):
    """By default too: these fits are not of the own front end."""
    for align in (None, 0):
        subject = open_subject(open_session(replace(options, align=align)), options.captures)
        capture = open_capture(options.captures)
        assert subject.aligned is None
        for frame in (5, 10):
            assert subject.capture.fit(frame).transl.equal(capture.fit(frame).transl)
        original = subject.frames([5, 10], list(VIEWS), 64, subject.session.input_crop)
        assert subject.inputs.images.equal(original.images) and subject.inputs.body.transl.equal(original.body.transl)
        assert subject.avatar.colors.equal(make_avatar(subject.session, original).colors)


@pytest.mark.slow
def test_corrections_are_the_same_in_the_capture_and_in_the_inputs(options, body):
    """The vertices have the same pixels in the frames of the alignment, in the inputs and in the capture's world."""
    subject = open_subject(open_session(options), options.captures)
    before, frames, views = subject.inputs, [5, 10], list(VIEWS)
    aligner = replace(subject.session.aligner, options=AlignOptions(steps=3))
    alignment = aligner(subject.avatar, before)
    inputs = apply_alignment(alignment, before, subject.capture, frames, views, body)
    moved = alignment.cameras[None] @ before.cameras.viewmats
    expected = replace(before.cameras, viewmats=moved).project(body(alignment.fits).vertices[:, None])[0]
    pixels = inputs.cameras.project(body(inputs.body).vertices[:, None])[0]
    torch.testing.assert_close(pixels, expected, rtol=0, atol=2e-3)
    assert (pixels - before.cameras.project(body(before.body).vertices[:, None])[0]).abs().mean() > 0.05
    again = subject.frames(frames, views, 64, "center")
    torch.testing.assert_close(again.cameras.viewmats, inputs.cameras.viewmats, rtol=0, atol=1e-5)
    torch.testing.assert_close(again.body.global_orient, inputs.body.global_orient, rtol=0, atol=1e-5)
    assert posed_pelvis(inputs.body, body).abs().max() < 1e-5
    assert subject.capture.fit(15).transl.equal(open_capture(options.captures).fit(15).transl)


@pytest.mark.slow
def test_the_first_and_other_cameras_are_kept(aligned, options):
    capture = open_capture(options.captures)
    for view in capture.camera_names:
        same = aligned.capture.camera(view).viewmat.equal(capture.camera(view).viewmat)
        assert same == (view != VIEWS[1])


@pytest.mark.slow
def test_what_was_moved_is_written(options, aligned, monkeypatch, caplog):
    monkeypatch.setattr(outputs, "PLAYER_MOTIONS", ("idle",))
    monkeypatch.setattr(evaluation, "load_lpips", lambda net: None)
    with caplog.at_level("INFO"):
        infer.main(replace(options, align=3, evaluate=True, protocol="quick"))
    assert "the alignment moved the body by" in caplog.text
    folder = options.workspace / "209801"
    content = json.loads((folder / ALIGNMENT_FILE).read_text())
    assert aligned.aligned.report["vertices_mm"] > 0.5 and content["report"] == pytest.approx(
        aligned.aligned.report, rel=1e-3
    )
    fit = aligned.capture.fit(10)
    assert content["fits"]["0010"]["transl"] == pytest.approx(fit.transl.tolist(), abs=1e-6)
    assert content["gains"]["0005"][VIEWS[1]] == pytest.approx(aligned.aligned.gains[0, 1].tolist(), rel=1e-4)
    assert (folder / ALIGNED_SHEET).is_file()
    assert f'<img src="{ALIGNED_SHEET}"' in (folder / "index.html").read_text()
    assert content["summary"].replace("'", "&#x27;")[1:40] in (folder / "index.html").read_text()
    record = json.loads((options.workspace / "metrics.json").read_text())["settings"]["alignment"]
    assert record["steps"] == 3 and record["subjects"]["209801"]["cameras_mm"] > 0
    infer.main(replace(options, align=0, evaluate=True, protocol="quick"))  # into the same folder
    assert not (folder / ALIGNMENT_FILE).exists() and not (folder / ALIGNED_SHEET).exists()
    assert ALIGNED_SHEET not in (folder / "index.html").read_text()
    assert "alignment" not in json.loads((options.workspace / "metrics.json").read_text())["settings"]


@pytest.mark.slow
def test_the_sheet_shows_the_fits_before_and_after(options, aligned, body, monkeypatch, tmp_path):
    """Outlines are those of the files' fit and of the corrected one, in the files' and in the corrected cameras."""
    frames, views = [5, 10], list(VIEWS)
    given = open_capture(options.captures)
    shifted = aligned.capture.fit(10, body)
    shifted = replace(shifted, transl=shifted.transl + torch.tensor([0.0, 0.0, -0.1]))  # up
    aligned.capture.correct({10: shifted}, {}, body.fingerprint)
    made = {}
    monkeypatch.setattr(
        aligned_overlay, "write_sheet", lambda path, F, C, tile, legend: made.update(tile=tile, F=F, C=C)
    )
    path = tmp_path / "sheet.png"
    aligned_overlay.write_aligned_overlay(path, aligned.aligned, aligned.capture, frames, views, body)
    assert (made["F"], made["C"]) == (2, 2)
    tile = made["tile"](1, 1)
    assert tile.image.shape == (*tile.mask.shape, 3)
    (first, first_color), (last, last_color) = tile.outlines
    assert (first_color, last_color) == (aligned_overlay.FIRST_COLOR, aligned_overlay.FIT_COLOR)
    for drawn, capture, fit in ((first, given, given.fit(10, body)), (last, aligned.capture, shifted)):
        camera = capture.camera(VIEWS[1])
        points = body(fit.to(torch.float32)).vertices.double() @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
        pixels = points @ camera.K.T
        rows = pixels[:, 1] / pixels[:, 2] * drawn.shape[0] / camera.height
        covered = drawn.any(1).nonzero()[0]
        assert abs(covered[0] - rows.min().clamp_min(0)) < 1.5 and abs(covered[-1] + 1 - rows.max()) < 1.5
    assert first.any(1).argmax() > last.any(1).argmax()
    after, before = (int(number) for number in re.findall(r"(\d+) %", tile.caption[1]))
    assert tile.caption[0].startswith("0010") and 60 < before <= 100 and after < before - 5


def test_a_sheet_of_tiles_without_landmarks_is_cut_to_the_mask(tmp_path):
    image, mask = np.full((200, 100, 3), 255, np.uint8), np.zeros((100, 50), bool)
    mask[40:60, 20:30] = True
    legend = {"aligned fit": (255, 0, 0)}
    write_sheet(tmp_path / "s.png", 1, 1, lambda f, c: Tile(image, mask, ((mask, (255, 0, 0)),)), legend)
    with Image.open(tmp_path / "s.png") as sheet:
        pixels = np.asarray(sheet).astype(int)
    red = (np.abs(pixels - (255, 0, 0)).sum(-1) == 0)[:480].nonzero()
    # 40 pixels of the mask in 58 of the crop, which is 480 high.
    assert abs((np.ptp(red[0]) + 1) - 480 * 40 / 58) < 6
