"""Training steps on a GPU without synchronisation."""

from dataclasses import replace

import pytest
import torch

from core.options import MODELS, DataOptions, LossOptions, TrainOptions
from scripts.benchmarks.step import Job

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("head", ["vertex", "residual"])
@pytest.mark.parametrize("stage", ["frame", "graph", "joint"])
def test_nothing_in_a_step_waits_for_the_device(stage, head):
    model = MODELS["demo-cpu"]
    options = TrainOptions(
        data=DataOptions(image_size=64, input_frames=2, target_frames=2, target_views=5),
        model=replace(model, graph=replace(model.graph, head=head)),
        loss=LossOptions(lpips_size=32, ssim=0.1),
        frame_weight=0.5,
    )
    job = Job(options, stage, torch.device("cuda"))
    for _ in range(3):  # compiles kernels and sets buffer sizes
        job.run()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        job.run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
