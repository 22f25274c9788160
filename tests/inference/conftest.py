"""Tiny captures, a tiny random network, and options of infer.py with which a subject takes a second."""

from dataclasses import replace

import pytest
import torch
from tiny_capture import TinyCapture
from tiny_network import TINY_UNET

from core.checkpoint import save_checkpoint
from core.inference import evaluation, outputs
from core.inference.options import InferenceOptions
from core.model.hgg import HumanGaussianGraph
from core.options import GraphOptions, ModelOptions

FRAMES = (5, 10, 15, 20)
MODEL = ModelOptions(unet=TINY_UNET, graph=GraphOptions(features=16, queries=1, layers=1, heads=2))


@pytest.fixture(scope="session")
def captures(tmp_path_factory, body):
    """Two subjects of 4 frames; four input cameras and two others."""
    root = tmp_path_factory.mktemp("captures")
    for name in ("209801", "209802"):
        TinyCapture(image_size=(153, 128), frames=FRAMES).write(root / name, body)
    return root


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, body):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, HumanGaussianGraph(MODEL, body), step=3)
    return path


@pytest.fixture
def options(captures, checkpoint, tmp_path, monkeypatch):
    """One subject, on the CPU, with the shortest videos."""
    monkeypatch.setattr(outputs, "PLAYER_MOTIONS", ("walk",))  # the fastest to make
    return InferenceOptions(
        captures=captures / "209801",
        checkpoint=checkpoint,
        workspace=tmp_path / "out",
        device="cpu",
        refine=0,
        input_size=64,
        video_size=48,
        video_frames=3,
    )


@pytest.fixture
def small_protocol(monkeypatch):
    """`quick` with 2 observed frames, 1 held out, 1 target camera, 64 px; a substitute for LPIPS, of VGG only."""
    from core.inference import session

    quick = replace(
        session.PROTOCOLS["quick"], observed_frames=(5, 15), novel_frames=(20,), image_size=64, target_views=1
    )
    monkeypatch.setitem(session.PROTOCOLS, "quick", quick)

    class Difference(torch.nn.Module):
        def forward(self, a, b):
            return (a - b).abs().mean((-3, -2, -1))

    monkeypatch.setattr(evaluation, "load_lpips", lambda net: Difference() if net == "vgg" else None)


@pytest.fixture
def no_player(monkeypatch):
    """An empty page instead of the player of each avatar."""
    monkeypatch.setattr(outputs, "save_html", lambda path, *_: path.touch())
