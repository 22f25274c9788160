"""A benchmark of two training and two test people, and options with which each row takes seconds."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_capture import TinyCapture
from tiny_network import TINY_UNET

from core import options as core_options
from core.checkpoint import Training, save_checkpoint
from core.inference import evaluation, session
from core.model.hgg import HumanGaussianGraph
from core.options import DataOptions, GraphOptions, LossOptions, ModelOptions, TrainOptions
from scripts.benchmarks.common import median_ms
from scripts.results import bench
from scripts.results.options import ResultsOptions

MODEL = ModelOptions(
    unet=TINY_UNET,
    graph=GraphOptions(features=8, queries=1, layers=2, heads=2),
)
TRAINING = TrainOptions(
    data=DataOptions(
        crop="person",
        image_size=32,
        min_input_views=1,
        input_frames=2,
        min_input_frames=1,
        target_frames=2,
        novel_frames=1,
        target_views=5,
        num_workers=0,
        verify=False,
    ),
    model=MODEL,
    loss=LossOptions(lpips=0.0, ssim=0.1),
)


@pytest.fixture(scope="session")
def benchmark_root(tmp_path_factory, body) -> Path:
    """Two training and two test people of four poses each; four input cameras and one other."""
    root = tmp_path_factory.mktemp("benchmark")
    for split, first in (("train", 200100), ("test", 209900)):
        for i in range(2):
            capture = TinyCapture(image_size=(153, 128), frames=(5, 10, 15, 20), num_cameras=5)
            capture.write(root / split / str(first + i), body)
    return root


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, body) -> Path:
    """An untrained network."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    model = replace(MODEL, color_sampling=True)
    trainings = [Training("joint", 8, 4, 32, 0.5), Training("joint", 3, 2, 32, 0.25)]
    save_checkpoint(path, HumanGaussianGraph(model, body), step=3, trainings=trainings)
    return path


@pytest.fixture
def options(benchmark_root, checkpoint, tmp_path, monkeypatch) -> ResultsOptions:
    """Options for the CPU and small images, with a replacement of LPIPS for VGG and without AlexNet."""

    class Difference(torch.nn.Module):
        def forward(self, a, b):
            return (a - b).abs().mean((-3, -2, -1))

    monkeypatch.setattr(bench, "median_ms", lambda call, _, device, *others: median_ms(call, 1, device, warm_up=0))
    monkeypatch.setattr(evaluation, "load_lpips", lambda net: Difference() if net == "vgg" else None)
    monkeypatch.setattr(session, "FULL", replace(session.FULL, image_size=48))
    monkeypatch.setitem(core_options.PRESETS, "tiny-test", ("For tests.", TRAINING))
    return ResultsOptions(
        root=benchmark_root,
        checkpoint=checkpoint,
        out=tmp_path / "results",
        workspace=tmp_path / "workspace",
        image_size=48,
        preset="tiny-test",
        ablation_steps=1,
        optimum_people=1,
        optimum_steps=3,
        refine_steps=2,
        device="cpu",
        commit="abc",
    )
