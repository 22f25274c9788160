"""Training with each rasterizer backend, on a GPU: the same steps within tolerance."""

from dataclasses import replace

import pytest
import torch

from core.render import available_backends
from core.training.logs import read_rows
from core.training.trainer import Trainer

pytestmark = pytest.mark.gpu


def final_loss(options, backend: str) -> float:
    """Mean loss of the last five of fifty steps."""
    options = replace(
        options,
        backend=backend,
        device="cuda",
        mixed_precision="no",
        steps=50,
        save_every=50,
        workspace=options.workspace / backend,
    )
    # TF32 would amplify a difference of 1e-6 to 1e-3 in every step.
    with torch.backends.cudnn.flags(allow_tf32=False, deterministic=True, benchmark=False):
        Trainer(options).run()
    losses = [row["loss"] for row in read_rows(options.workspace / "log.csv")]
    assert len(losses) == 50 and sum(losses[-5:]) < 0.95 * sum(losses[:5])
    return sum(losses[-5:]) / 5


def test_fifty_steps_with_each_backend_end_with_equal_losses(options, record_property):
    """Renderings of two backends differ by about 1e-5, which accumulates: losses within 2 % after fifty steps."""
    losses = {name: final_loss(options, name) for name in available_backends()}
    record_property("losses", losses)
    assert losses == pytest.approx(dict.fromkeys(losses, losses["torch"]), rel=0.02)
