"""Completion as a step of inference: before refinement, and off without a trace."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from model_rig import TEST_MODEL

from core.inference.options import InferenceOptions
from core.inference.refinement import RefineOptions, Refiner
from core.inference.subject import make_avatar
from core.model.completion import complete_colors
from core.model.hgg import HumanGaussianGraph
from core.types.frames import Frames


@pytest.mark.slow
@pytest.mark.parametrize("complete", [False, True])
@torch.no_grad()
def test_avatars_are_completed_unless_that_is_off(body, make_frames, complete):
    torch.manual_seed(0)
    network = HumanGaussianGraph(TEST_MODEL, body).eval()
    session = SimpleNamespace(
        options=InferenceOptions(complete=complete),
        model=network,
        body=body,
        backend="auto",
        autocast=nullcontext,
        refiner=Refiner(body, RefineOptions(steps=0)),
    )
    inputs = make_frames(frames=1)[0]
    expected = network(Frames.stack([inputs])).avatar[0]
    completed = complete_colors(expected, body, inputs)
    assert not torch.equal(completed.colors, expected.colors)
    made = make_avatar(session, inputs)
    assert torch.equal(made.colors, (completed if complete else expected).colors)
    assert torch.equal(made.offsets, expected.offsets)
