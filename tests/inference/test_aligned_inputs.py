"""Aligned inputs of `infer.py`: off for captures of others, consistent in the world, on disk and in metrics."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_capture import TinyCapture
from tiny_network import TINY_UNET

import infer
from core.checkpoint import save_checkpoint
from core.data.readers import open_capture
from core.data.subject_frame import posed_pelvis
from core.inference import evaluation, outputs
from core.inference.aligned_inputs import ALIGNMENT_FILE, apply_alignment
from core.inference.alignment import AlignOptions
from core.inference.options import InferenceOptions
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


def test_the_first_and_other_cameras_are_kept(aligned, options):
    capture = open_capture(options.captures)
    for view in capture.camera_names:
        same = aligned.capture.camera(view).viewmat.equal(capture.camera(view).viewmat)
        assert same == (view != VIEWS[1])


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
    assert content["summary"].replace("'", "&#x27;")[1:40] in (folder / "index.html").read_text()
    record = json.loads((options.workspace / "metrics.json").read_text())["settings"]["alignment"]
    assert record["steps"] == 3 and record["subjects"]["209801"]["cameras_mm"] > 0
    infer.main(replace(options, align=0, evaluate=True, protocol="quick"))  # into the same folder
    assert not (folder / ALIGNMENT_FILE).exists()
    assert "alignment" not in json.loads((options.workspace / "metrics.json").read_text())["settings"]
