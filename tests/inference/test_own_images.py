"""infer.py on a folder of images of a drawn person: the capture is made first, and kept beside the results."""

import json
from dataclasses import replace

import pytest
import torch
from drawn_person import FOCAL, StubReader, TrueFit, draw, standing
from PIL import Image
from tiny_network import TINY_UNET

import infer
from core.capture import prepare
from core.capture.options import PrepareOptions
from core.checkpoint import save_checkpoint
from core.inference.aligned_inputs import ALIGNMENT_FILE
from core.inference.alignment import AlignOptions
from core.inference.options import InferenceOptions
from core.inference.outputs import FILES
from core.inference.result_page import ALIGNED_SHEET
from core.model.hgg import HumanGaussianGraph
from core.options import GraphOptions, ModelOptions


@pytest.fixture
def options(tmp_path, body, monkeypatch):
    """Four images, a tiny random network, and stubs of the pose networks and of the fitter."""
    frames = [draw(body, i, [standing(1.6 * i)]) for i in range(4)]
    (tmp_path / "me").mkdir()
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame.image).save(tmp_path / "me" / f"{number:04d}.png")
    fit = TrueFit(frames)
    monkeypatch.setattr(prepare, "_open_reader", lambda options: StubReader(frames))
    monkeypatch.setattr(prepare.prepare_capture, "__kwdefaults__", {"reader": None, "fit": fit})
    torch.manual_seed(0)
    model = ModelOptions(unet=TINY_UNET, graph=GraphOptions(features=16, queries=1, layers=1, heads=2))
    save_checkpoint(tmp_path / "tiny.safetensors", HumanGaussianGraph(model, body), step=1)
    options = InferenceOptions(
        captures=tmp_path / "me",
        checkpoint=tmp_path / "tiny.safetensors",
        workspace=tmp_path / "out",
        device="cpu",
        refine=0,
        input_size=64,
        video_size=48,
        video_frames=2,
        prepare=PrepareOptions(frames=3, focal=FOCAL, device="cpu"),
    )
    monkeypatch.setattr(AlignOptions, "steps", 2)
    monkeypatch.setattr("core.inference.outputs.PLAYER_MOTIONS", ("walk",))  # the fastest to make
    return options, fit


@pytest.mark.slow
def test_images_become_an_avatar(options):
    options, fit = options
    infer.main(options)
    folder = options.workspace / "me"
    assert sorted(p.name for p in folder.iterdir()) == sorted([*FILES, ALIGNMENT_FILE, ALIGNED_SHEET, "capture"])
    capture = json.loads((folder / "capture" / "capture.json").read_text())
    assert len(capture["frames"]) == 3
    page = (folder / "index.html").read_text()
    assert "turntable.mp4" in page and "capture/index.html" in page and "of the body's surface" in page
    assert ALIGNED_SHEET in page and "capture/overlay.png" not in page  # the fits that the avatar was made with
    assert "The alignment moved the body by" in page  # by default for fits of the own front end

    infer.main(replace(options, video_frames=3))  # the capture is kept, and not made again
    assert len(fit.calls) == 1 and (folder / "capture" / "capture.json").is_file()


@pytest.mark.slow
def test_without_alignment_the_page_shows_the_fits_of_the_capture(options):
    options, _ = options
    infer.main(replace(options, align=0))
    page = (options.workspace / "me" / "index.html").read_text()
    assert "capture/overlay.png" in page and ALIGNED_SHEET not in page


@pytest.mark.slow
def test_the_capture_can_be_named_afterwards(options):
    """Its subject has the name of the folder above."""
    options, _ = options
    infer.main(options)
    infer.main(replace(options, captures=options.workspace / "me" / "capture", workspace=options.workspace / "again"))
    assert sorted(p.name for p in (options.workspace / "again").iterdir()) == ["index.html", "me"]
